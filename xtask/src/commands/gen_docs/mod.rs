//! `gen-docs`: the tables of `docs/reference`, from the lists that the commands use. Nothing is fetched or booted.

mod cases;
mod faults;
mod page;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use cowbird_images::{Catalogue, KernelSpec, Tier};
use cowbird_matrix::mutants;

use self::page::{COMMAND, code, head, table};
use crate::commands::lists::word;
use crate::repo;
use crate::ui::print;

/// The folder of the pages.
const FOLDER: &str = "docs/reference";

/// Arguments of `gen-docs`.
#[derive(Clone, Copy, Debug, Args)]
pub struct GenDocsArgs {
    /// Change nothing; fail when a page is not what the code says
    #[arg(long)]
    pub check: bool,
}

/// Runs the command; the value is the exit code.
pub fn command(args: GenDocsArgs) -> Result<u8> {
    let pages = [
        ("cases.md", cases::page()?),
        ("faults.md", faults::page()?),
        ("kernels.md", kernels()?),
        ("mutants.md", mutant_page()?),
    ];
    let folder = repo::root().join(FOLDER);
    let mut code = 0;
    for (name, text) in pages {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if args.check {
            print(&format!(
                "{FOLDER}/{name} is not what the code says: run `{COMMAND}`\n"
            ))?;
            code = 1;
        } else {
            write(&path, &text)?;
            print(&format!("wrote {FOLDER}/{name}\n"))?;
        }
    }
    Ok(code)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn kernels() -> Result<String> {
    let catalogue = Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO))?;
    let row = |spec: &KernelSpec| -> Result<[String; 6]> {
        let first: Option<&Tier> = spec.tiers.iter().next();
        Ok([
            code(&spec.name),
            spec.distro.clone(),
            format!("{} {}", spec.series, spec.flavour),
            first.map(word).transpose()?.unwrap_or_default(),
            format!("{}, {}", spec.build_root.name, spec.build_root.compiler),
            spec.unsupported.clone().unwrap_or_default(),
        ])
    };
    let rows: Vec<_> = catalogue.kernels.iter().map(row).collect::<Result<_>>()?;
    let text = "The kernels of `images/catalogue.toml`. Each takes part in its tier and in those after it. Every kernel of a tier runs the \
                quick cases, and the quick kernels run every case of the tier; other kernels run an eighth of the longer \
                cases, in turn. One of a distribution other than Debian takes part where you supply its packages.";
    Ok(head("Kernels", text)
        + &table(
            [
                "kernel",
                "distribution",
                "series and flavour",
                "tier",
                "build root",
                "why it is unsupported",
            ],
            rows,
        ))
}

fn mutant_page() -> Result<String> {
    let list = mutants::load(&repo::root())?;
    let rows = list.iter().map(|mutant| {
        let cases: Vec<String> = mutant.cases.iter().map(|case| code(case)).collect();
        let tried_with = match cases.is_empty() {
            true => "those of the tier".to_owned(),
            false => cases.join(" "),
        };
        [
            code(&mutant.name),
            mutant.breaks.clone(),
            mutant.seen_as(),
            tried_with,
        ]
    });
    let text = "Known faults of the module, of `kmod/mutants.toml`, with which the harness is put on trial: the module is built with one of \
                them, and a case must see it, as wrong blocks of one of these classes, by a reason with these words, or by this end of \
                the guest. `cargo xtask mutants` runs all. The invariants that they break are listed at the head of \
                `kmod/src/cowbird.h`.";
    Ok(head("Mutants", text) + &table(["mutant", "what it breaks", "seen as", "tried with"], rows))
}
