//! Boots one kernel by hand: a developer's tool beside `cargo xtask`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use cowbird_harness::accel::Accel;
use cowbird_harness::disk::{self, Partition};
use cowbird_harness::initramfs::{self, COWBIRD_KO, COWBIRDCTL, Contents};
use cowbird_harness::limits::Limits;
use cowbird_harness::plan::{CellPlan, DEFAULT_CPUS, DEFAULT_MEMORY_MIB};
use cowbird_harness::vm::command::{Disk, VmConfig};
use cowbird_harness::vm::{CallError, Vm};
use cowbird_harness::{cases, kernel_image, run_cell};
use cowbird_proto::message::{Reply, Request};

#[derive(Parser)]
struct Options {
    /// Lines of `name vmlinuz modules_dir headers root`.
    #[arg(long, default_value = "/tmp/cb/kernels.txt")]
    kernels: PathBuf,
    #[arg(long, default_value = "bookworm-6.1-cloud")]
    kernel: String,
    /// The module under test.
    #[arg(long)]
    ko: Option<PathBuf>,
    /// The control tool, static.
    #[arg(long)]
    ctl: Option<PathBuf>,
    /// The guest's init, static.
    #[arg(long)]
    guest: PathBuf,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value = "/tmp/cb/h/work")]
    work_dir: PathBuf,
    #[arg(long, default_value = "/tmp/cb/h/cache")]
    cache_dir: PathBuf,
    #[arg(long)]
    kvm: bool,
    /// Runs a case instead of commands.
    #[arg(long)]
    case: Option<String>,
    /// Only recorded: the fault that the module was built with.
    #[arg(long)]
    mutant: Option<String>,
    /// Commands for the guest, run one after the other; see `run`.
    commands: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    fs::create_dir_all(&options.work_dir)?;
    let (vmlinuz, modules_dir) = kernel(&options)?;
    let vmlinuz = kernel_image::unpacked(&vmlinuz, &options.cache_dir)?;
    let wanted = cases()[0].needs_modules;
    let modules = boot_modules(&modules_dir, &options.work_dir, wanted)?;
    if let Some(case) = &options.case {
        return run_case(&options, case, vmlinuz, &modules_dir, modules).await;
    }
    if let Some(case) = &options.case {
        return run_case(&options, case, vmlinuz, &modules_dir, modules).await;
    }
    let mut files = Vec::new();
    files.extend(
        options
            .ko
            .iter()
            .map(|path| (COWBIRD_KO.to_owned(), path.clone())),
    );
    files.extend(
        options
            .ctl
            .iter()
            .map(|path| (COWBIRDCTL.to_owned(), path.clone())),
    );
    let initramfs = options.work_dir.join("initramfs.cpio");
    let contents = Contents {
        guest_init: &options.guest,
        boot_modules: &modules,
        files: &files,
    };
    fs::write(&initramfs, initramfs::build(&contents)?)?;
    let disks = make_disks(&options)?;
    let config = VmConfig {
        kernel: vmlinuz,
        initramfs,
        kernel_parameters: String::new(),
        disks,
        cpus: 2,
        memory_mib: 1024,
        accel: if options.kvm { Accel::Kvm } else { Accel::Tcg },
        work_dir: options.work_dir.clone(),
    };
    let started = std::time::Instant::now();
    let (mut vm, hello) = Vm::boot(config, Limits::default()).await?;
    println!("{hello:?} after {:?}", started.elapsed());
    for command in &options.commands {
        println!("> {command}");
        run(&mut vm, command).await?;
    }
    let started = std::time::Instant::now();
    vm.power_off().await?;
    println!("powered off after {:?}", started.elapsed());
    Ok(())
}

async fn run_case(
    options: &Options,
    case: &str,
    vmlinuz: PathBuf,
    modules_dir: &Path,
    boot_modules: Vec<(String, PathBuf)>,
) -> Result<()> {
    let release = modules_dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let plan = CellPlan {
        kernel_name: options.kernel.clone(),
        kernel_release: release,
        vmlinuz,
        boot_modules,
        cowbird_ko: options.ko.clone().context("a case needs --ko")?,
        guest_init: options.guest.clone(),
        cowbirdctl: options.ctl.clone().context("a case needs --ctl")?,
        case: case.to_owned(),
        mutant: options.mutant.clone(),
        seed: options.seed,
        accel: if options.kvm { Accel::Kvm } else { Accel::Tcg },
        cpus: DEFAULT_CPUS,
        memory_mib: DEFAULT_MEMORY_MIB,
        work_dir: options.work_dir.join("cell"),
        bundle_dir: options
            .work_dir
            .join(format!("bundle-{}-{case}", options.kernel)),
        limits: Limits::default(),
    };
    let outcome = run_cell(&plan, &|phase: &str| eprintln!("  {phase}")).await;
    let phases: Vec<String> = outcome
        .phases
        .iter()
        .map(|(name, time)| format!("{name} {:.1}", time.as_secs_f64()))
        .collect();
    println!(
        "{} {case} seed {}: {} {} checked {} bad {} {:?} | {:.1} s: {} | {:?}",
        options.kernel,
        options.seed,
        outcome.verdict,
        outcome.reason,
        outcome.blocks_checked,
        outcome.blocks_bad,
        outcome.classes,
        outcome.seconds,
        phases.join(" "),
        outcome.bundle,
    );
    Ok(())
}

/// `insmod [params]`, `rmmod`, `ctl ARGS`, `run PROGRAM ARGS`, `mount SOURCE TARGET`,
/// `umount TARGET`, `fiemap PATH`, `cat PATH`, `write PATH TEXT`, `info`, `copy FROM TO`, `dmesg`,
/// `sleep SECONDS`, `sync`, `blocked`, `crash`, `silent`, `kill`.
async fn run(vm: &mut Vm, command: &str) -> Result<()> {
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    let word = |index: usize| words.get(index).cloned().unwrap_or_default();
    let program = |program: String, from: usize| Request::Run {
        program,
        args: words[from..].to_vec(),
        timeout_ms: 60_000,
    };
    let request = match word(0).as_str() {
        "insmod" => Request::InsertModule {
            path: COWBIRD_KO.into(),
            params: words[1..].join(" "),
        },
        "rmmod" => Request::RemoveModule {
            name: "cowbird".into(),
        },
        "ctl" => program(COWBIRDCTL.into(), 1),
        "run" => program(word(1), 2),
        "mount" => Request::Mount {
            source: word(1),
            target: word(2),
            fstype: "ext4".into(),
            options: String::new(),
        },
        "umount" => Request::Umount { target: word(1) },
        "fiemap" => Request::Fiemap {
            path: word(1),
            from_byte: 0,
        },
        "cat" => Request::ReadText { path: word(1) },
        "write" => Request::WriteText {
            path: word(1),
            text: words[2..].join(" "),
        },
        "info" => Request::ReadInfo,
        "copy" => Request::CopyDevice {
            from: word(1),
            to: word(2),
            chunk_bytes: 1 << 20,
        },
        "dmesg" => Request::KernelLog { after: None },
        "sync" => Request::SyncAll,
        "blocked" => Request::DumpBlockedTasks,
        "crash" => Request::CrashKernel,
        "silent" => Request::GoSilent,
        "sleep" => {
            vm.pause(Duration::from_secs_f64(word(1).parse()?)).await?;
            return Ok(());
        }
        "kill" => {
            Command::new("kill")
                .args(["-9", &vm.pid().to_string()])
                .status()?;
            vm.pause(Duration::from_secs(1)).await?;
            return Ok(());
        }
        other => bail!("unknown command {other}"),
    };
    match vm.call(request, Duration::from_secs(120)).await {
        Ok(Reply::Text(text)) => println!("{text}"),
        Ok(Reply::KernelLog { records, .. }) => {
            for record in records {
                println!("<{}>[{:>12}] {}", record.level, record.time_us, record.text);
            }
        }
        Ok(reply) => println!("{reply:?}"),
        Err(CallError::Guest { error }) => println!("guest error: {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn make_disks(options: &Options) -> Result<Vec<Disk>> {
    let (origin, image) = (
        options.work_dir.join("origin.raw"),
        options.work_dir.join("image.raw"),
    );
    let first = Partition {
        start: 2048,
        sectors: 128 << 11,
    };
    let second = Partition {
        start: first.end() + 2048,
        sectors: 192 << 11,
    };
    disk::create_partitioned(&origin, 330 << 20, &[first, second], &[first], options.seed)?;
    disk::make_ext4(&origin, first, options.seed)?;
    disk::make_ext4(&origin, second, options.seed)?;
    disk::copy_sparse(&origin, &options.work_dir.join("base.raw"))?;
    disk::create_sparse(&image, 192 << 20)?;
    let witness = options.work_dir.join("witness.log");
    fs::write(&witness, [])?;
    Ok(vec![
        Disk {
            image: origin,
            witness: Some(witness),
        },
        Disk {
            image,
            witness: None,
        },
    ])
}

fn kernel(options: &Options) -> Result<(PathBuf, PathBuf)> {
    let text = fs::read_to_string(&options.kernels)?;
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [name, vmlinuz, modules_dir, ..] = fields[..]
            && name == options.kernel
        {
            return Ok((vmlinuz.into(), modules_dir.into()));
        }
    }
    bail!(
        "no kernel {} in {}",
        options.kernel,
        options.kernels.display()
    )
}

/// The wanted modules and what they depend on, in order, decompressed; built-in ones are skipped.
fn boot_modules(dir: &Path, scratch: &Path, wanted: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut list = Vec::new();
    let found = Command::new("find")
        .arg(dir)
        .args(["-name", "*.ko*"])
        .output()?;
    let all: Vec<PathBuf> = String::from_utf8(found.stdout)?
        .lines()
        .map(PathBuf::from)
        .collect();
    let mut seen = HashSet::new();
    for name in wanted {
        add_module(name, &all, scratch, &mut seen, &mut list)?;
    }
    Ok(list)
}

fn add_module(
    name: &str,
    all: &[PathBuf],
    scratch: &Path,
    seen: &mut HashSet<String>,
    list: &mut Vec<(String, PathBuf)>,
) -> Result<()> {
    let name = name.replace('-', "_");
    if !seen.insert(name.clone()) {
        return Ok(());
    }
    let is_it = |path: &&PathBuf| {
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .replace('-', "_");
        file.split_once(".ko").is_some_and(|(stem, _)| stem == name)
    };
    let Some(path) = all.iter().find(is_it) else {
        return Ok(());
    };
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => fs::read(path)?,
        Some("xz") => Command::new("xzcat").arg(path).output()?.stdout,
        Some("zst") => Command::new("zstdcat").arg(path).output()?.stdout,
        _ => return Err(anyhow!("{} has an unknown compression", path.display())),
    };
    let depends = modinfo(&bytes, "depends=").unwrap_or_default();
    for dependency in depends
        .split(',')
        .filter(|dependency| !dependency.is_empty())
    {
        add_module(dependency, all, scratch, seen, list)?;
    }
    let plain = scratch.join(format!("{name}.ko"));
    fs::write(&plain, bytes).context("write module")?;
    list.push((name, plain));
    Ok(())
}

fn modinfo(bytes: &[u8], key: &str) -> Option<String> {
    let at = bytes
        .windows(key.len() + 1)
        .position(|window| window[0] == 0 && &window[1..] == key.as_bytes())?;
    let value = &bytes[at + 1 + key.len()..];
    let end = value.iter().position(|byte| *byte == 0)?;
    String::from_utf8(value[..end].to_vec()).ok()
}
