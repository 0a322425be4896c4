//! Prepares kernels and optionally builds a module for them, and prints where everything is.
//!
//! `cargo run -p cowbird-images --example prepare -- [--offline] [--refresh] [--build DIR] [--mutant NAME]
//! [--load MODULE]... [--write-lock FILE] [--catalogue FILE] [GLOB]...`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cowbird_images::{
    Catalogue, KernelSpec, ModuleSource, Outcome, Progress, Store, StoreOptions, TaskId,
};
use cowbird_outside::{out, say};
use cowbird_programs::{HostPackage, missing_host_packages};

/// One line for every report.
struct Lines(Instant);

impl Lines {
    fn line(&self, text: &str) {
        out::note(format_args!(
            "[{:7.2}] {text}",
            self.0.elapsed().as_secs_f64()
        ));
    }
}

impl Progress for Lines {
    fn start(&self, task: TaskId, what: &str) {
        self.line(&format!("{task:?} start: {what}"));
    }
    fn step(&self, task: TaskId, message: &str) {
        self.line(&format!("{task:?} {message}"));
    }
    fn finish(&self, task: TaskId, outcome: Outcome) {
        self.line(&format!("{task:?} {outcome:?}"));
    }
    fn warning(&self, message: &str) {
        self.line(&format!("warning: {message}"));
    }
}

#[derive(Default)]
struct Arguments {
    offline: bool,
    refresh: bool,
    build: Option<PathBuf>,
    mutant: Option<String>,
    load: Vec<String>,
    write_lock: Option<PathBuf>,
    catalogue: Option<PathBuf>,
    globs: Vec<String>,
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments::default();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || {
            given
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--offline" => arguments.offline = true,
            "--refresh" => arguments.refresh = true,
            "--build" => arguments.build = Some(value()?.into()),
            "--mutant" => arguments.mutant = Some(value()?),
            "--load" => arguments.load.push(value()?),
            "--catalogue" => arguments.catalogue = Some(value()?.into()),
            "--write-lock" => arguments.write_lock = Some(value()?.into()),
            glob if !glob.starts_with('-') => arguments.globs.push(argument),
            unknown => bail!("unknown option {unknown}"),
        }
    }
    Ok(arguments)
}

/// As messages begin.
const PROGRAM: &str = "prepare";

fn main() -> ExitCode {
    let code = match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::complain(PROGRAM, format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    };
    match out::finish() {
        Ok(()) => code,
        Err(error) => {
            out::complain(PROGRAM, error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = arguments()?;
    let missing = missing_host_packages();
    if !missing.is_empty() {
        bail!("first run: {}", HostPackage::install_command(&missing));
    }
    let repo_root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no repository")?;
    let path = arguments
        .catalogue
        .clone()
        .unwrap_or_else(|| repo_root.join(Catalogue::PATH_IN_REPO));
    let catalogue = Catalogue::load(path)?;
    let kernels = catalogue.select(&arguments.globs)?;
    let store = Store::open(StoreOptions {
        offline: arguments.offline,
        refresh: arguments.refresh,
        progress: Arc::new(Lines(Instant::now())),
        ..StoreOptions::new(repo_root)
    })?;
    for spec in &kernels {
        show(&store, spec, &arguments)?;
    }
    if let Some(path) = &arguments.write_lock {
        store.write_lock(&kernels, path)?;
    }
    Ok(())
}

fn show(store: &Store, spec: &KernelSpec, arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let kernel = store.prepare(spec)?;
    say!(
        "{} {} ({}), {:.2?}",
        spec.name,
        kernel.release,
        kernel.package_version,
        started.elapsed()
    );
    say!("  vmlinuz {}", kernel.vmlinuz.display());
    say!("  modules {}", kernel.modules_dir.display());
    say!("  headers {}", kernel.tree.join(&kernel.headers).display());
    say!("  root    {}", kernel.root.join("root").display());
    if !arguments.load.is_empty() {
        let started = Instant::now();
        let wanted: Vec<_> = arguments.load.iter().map(String::as_str).collect();
        let modules = store.boot_modules(&kernel, &wanted)?;
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        say!("  load    {} ({:.2?})", names.join(" "), started.elapsed());
    }
    if let Some(dir) = &arguments.build {
        let started = Instant::now();
        let source = ModuleSource {
            dir: dir.clone(),
            mutant: arguments.mutant.clone(),
            debug: false,
        };
        let built = store.build_module(&kernel, &source)?;
        let how = if built.cached { "cached" } else { "built" };
        say!(
            "  module  {} ({how}, {:.2?})",
            built.ko.display(),
            started.elapsed()
        );
    }
    say!("  status  {:?}", store.status(spec)?);
    Ok(())
}
