//! PostgreSQL with checksums of its pages. From the restored volume it recovers as after a power cut.
//!
//! The cluster is made on the host, where that takes a second and not twenty, and is in the origin's filesystem when the
//! guest boots.

use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cowbird_checks::claim::Evidence;
use cowbird_host::disk::{self, Filesystem};
use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::program::HostProgram;
use cowbird_proto::message::{EndSignal, ProgramSpec, ProgramsSpec, WorkloadSpec};
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, Workload};
use cowbird_vm::layout::Layout;

use crate::info::{CaseInfo, CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::restored;
use crate::subject::{CasesOf, Subject};

use super::{CaseContext, Clients, DEVICE, MOUNT, bank, judged, look, tear_down};

/// The case of this file.
pub static CASES: CasesOf = Subject::Applications.cases(&[CaseInfo {
    programs: PROGRAMS,
    files,
    ..case(
        "postgresql",
        "PostgreSQL under load; it recovers from the restored volume, is sound and of the instant",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context)),
    )
}]);

const fn of_server(program: &'static str) -> HostProgram {
    HostProgram {
        program,
        package: "postgresql",
    }
}

const SERVER: HostProgram = of_server("postgres");
const PSQL: HostProgram = of_server("psql");
const AMCHECK: HostProgram = of_server("pg_amcheck");
const CHECKSUMS: HostProgram = of_server("pg_checksums");
const INITDB: HostProgram = of_server("initdb");

/// What goes into the guest.
pub const PROGRAMS: &[HostProgram] = &[SERVER, PSQL, AMCHECK, CHECKSUMS];

/// Beside its programs the server needs its checker of indexes and the names of time zones.
const CHECKER: &str = "amcheck.so";
const ZONES: &str = "timezonesets/Default";

/// The cluster's folder in its filesystem.
const CLUSTER: &str = "cluster";

/// Who owns it when this process may give files away: the server refuses to run as root.
const OWNER: u32 = 65534;

/// Where the server's socket is in the guest.
const SOCKET: &str = "/tmp";

/// What the server is told beside the defaults: no shared memory files outside of its own folder, checkpoints during
/// the case, and so little memory that pages are written soon after they were changed. A page that is overwritten
/// after the instant matters only if recovery does not write it anew.
const CONFIGURATION: &str = "
listen_addresses = ''
unix_socket_directories = '/tmp'
dynamic_shared_memory_type = mmap
shared_buffers = 512kB
max_connections = 10
max_wal_size = 8MB
min_wal_size = 2MB
checkpoint_timeout = 30s
autovacuum = off
jit = off
max_parallel_workers = 0
timezone = 'GMT'
log_timezone = 'GMT'
";

/// Time for the server until it answers.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Pause between two questions whether it does.
const START_PAUSE: Duration = Duration::from_millis(300);

/// The disks of `postgresql`.
fn layout() -> Layout {
    Layout {
        content: Some(make_cluster),
        ..super::layout()
    }
}

/// What the server needs beside its programs: the same paths in the guest.
pub fn files() -> HarnessResult<Vec<(String, PathBuf)>> {
    let server = PathBuf::from(SERVER.path()?);
    // <version>/bin/postgres, and the shared files below a folder of the same version.
    let version = server.ancestors().nth(2).unwrap_or(Path::new("/"));
    let number = version.file_name().unwrap_or_default();
    let shared = Path::new("/usr/share/postgresql").join(number);
    let paths = [version.join("lib").join(CHECKER), shared.join(ZONES)];
    Ok(paths.map(|path| (path.display().to_string(), path)).into())
}

/// Makes a cluster with the bank's tables below a folder.
fn make_cluster(root: &Path) -> HarnessResult<()> {
    let cluster = root.join(CLUSTER);
    fs::create_dir_all(&cluster).on("create", &cluster)?;
    let owner = rustix::process::geteuid().is_root().then_some(OWNER);
    if owner.is_some() {
        chown(&cluster, owner, owner).on("give away", &cluster)?;
    }
    let as_owner = |program: HostProgram| -> HarnessResult<Command> {
        let mut command = Command::new(program.path()?);
        command.current_dir("/").env_clear().env("LC_ALL", "C");
        if let Some(owner) = owner {
            command.uid(owner).gid(owner);
        }
        Ok(command)
    };
    let hint = "package postgresql";
    disk::run(
        INITDB.program,
        hint,
        as_owner(INITDB)?
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"])
            .args(["--data-checksums", "--wal-segsize=1", "--no-sync"])
            .arg("-D")
            .arg(&cluster),
    )?;
    let configuration = cluster.join("postgresql.conf");
    let mut text = fs::read_to_string(&configuration).on("read", &configuration)?;
    text += CONFIGURATION;
    fs::write(&configuration, text).on("write", &configuration)?;
    let script = format!("CREATE EXTENSION amcheck;\n{}", bank::schema());
    let mut server = as_owner(SERVER)?
        .args(["--single", "-c", "exit_on_error=true", "-D"])
        .arg(&cluster)
        .arg("postgres")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .on("start", Path::new(SERVER.program))?;
    if let Some(mut input) = server.stdin.take() {
        // It says itself why it does not read.
        let _ = input.write_all(script.as_bytes());
    }
    let output = server
        .wait_with_output()
        .on("wait for", Path::new(SERVER.program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(HarnessError::Tool {
        tool: SERVER.program,
        detail: format!("{}: {}", output.status, said.trim()),
        hint,
    })
}

/// Plays `postgresql`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    super::set_up(guest, context).await?;
    let server = start_server(guest, EndSignal::Quit).await?;
    wait_for_answer(guest, &server).await?;
    let psql = PSQL.path()?;
    let clients = Clients {
        program: &psql,
        arguments: &psql_arguments(),
        first: "",
        begin: "BEGIN",
    };
    let clients = clients.start(guest, context.seed, "transfers").await?;
    let databases = [clients];
    let (evidence, possible) = super::take_snapshot(guest, context, &databases).await?;
    // The pages of its tables are written, and not its log alone.
    let mut checkpoint = psql_arguments();
    checkpoint.extend(["-c", "CHECKPOINT"]);
    guest.run(&psql, &checkpoint).await?;
    super::copy(guest, context, &databases).await?;
    guest.stop_workload(&server).await?;
    tear_down(guest).await?;

    restored::restore(guest, context).await?;
    if let Err(fault) = restored::mount(guest, context, MOUNT, Filesystem::Ext4).await? {
        return Ok(judged(evidence, vec![fault], false));
    }
    let server = start_server(guest, EndSignal::Interrupt).await?;
    let mut faults = Vec::new();
    match wait_for_answer(guest, &server).await {
        // It ended: it says why.
        Err(CaseError::Failed(reason)) => faults.push(reason),
        other => {
            other?;
            for possible in &possible {
                let mut question = psql_arguments();
                let text = bank::question();
                question.extend(["-c", &text]);
                match look(guest, &psql, &question).await? {
                    Ok(answers) => faults.extend(bank::faults(&answers, possible)),
                    Err(fault) => faults.push(fault),
                }
            }
            let checked = [
                "-h",
                SOCKET,
                "-U",
                "postgres",
                "-d",
                "postgres",
                "--parent-check",
                "--heapallindexed",
            ];
            faults.extend(look(guest, &AMCHECK.path()?, &checked).await?.err());
        }
    }
    match guest.stop_workload(&server).await {
        Ok(_) => {
            let cluster = format!("{MOUNT}/{CLUSTER}");
            let all = ["--check", "-D", &cluster];
            faults.extend(look(guest, &CHECKSUMS.path()?, &all).await?.err());
        }
        // Told already.
        Err(CaseError::Failed(_)) => {}
        Err(error) => return Err(error),
    }
    guest.unmount(MOUNT).await?;
    Ok(judged(evidence, faults, true))
}

async fn start_server(
    guest: &mut GuestSession<'_, '_>,
    ends_by: EndSignal,
) -> CaseResult<Workload> {
    let cluster = format!("{MOUNT}/{CLUSTER}");
    let server = ProgramSpec {
        program: SERVER.path()?,
        args: vec!["-D".to_owned(), cluster.clone()],
        input: None,
        as_owner_of: Some(cluster),
        acknowledges: String::new(),
        ends_by,
    };
    let spec = WorkloadSpec::Programs(ProgramsSpec {
        programs: vec![server],
        device: DEVICE.to_owned(),
    });
    guest.start_workload(spec).await
}

/// Waits until the server answers; an error when it has ended.
async fn wait_for_answer(guest: &mut GuestSession<'_, '_>, server: &Workload) -> CaseResult<()> {
    let psql = PSQL.path()?;
    let mut question = psql_arguments();
    question.extend(["-c", "SELECT 1"]);
    let deadline = Instant::now() + START_LIMIT * guest.limits.slowdown;
    loop {
        let exited = guest.run_to_any_end(&psql, &question).await?;
        if exited.code == Some(0) {
            return Ok(());
        }
        guest.workload(server).await?;
        if Instant::now() > deadline {
            let said = exited.stderr.trim().replace('\n', " / ");
            return Err(CaseError::Failed(format!(
                "PostgreSQL does not answer within {START_LIMIT:?}: {said}"
            )));
        }
        guest.vm().pause(START_PAUSE).await?;
    }
}

/// No file of settings, no question and no headings, and an end at the first error.
fn psql_arguments() -> Vec<&'static str> {
    vec![
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-h",
        SOCKET,
        "-U",
        "postgres",
        "-d",
        "postgres",
    ]
}
