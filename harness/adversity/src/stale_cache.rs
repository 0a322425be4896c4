//! A tracked origin is for everybody else an untracked one. What administrators do with disks is done with one that is
//! tracked and with one that is not, and must have the same outcome; and origins of each kind that a command
//! takes apart are taken apart while they are tracked.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseInfo, CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use cowbird_cases::stacked::LOOP;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::judgement::ExpectedLog;
use cowbird_host::nature::FurtherDisk;
use cowbird_host::program::HostProgram;
use cowbird_proto::message::{PartitionChange, Request, StackKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, FAILED, GuestSession, SnapshotSpec};
use cowbird_vm::layout::Layout;

/// The case of this file.
pub static CASES: CasesOf = Subject::Surroundings.cases(&[CaseInfo {
    programs: PROGRAMS,
    ..case(
        "stale-cache",
        "a tracked disk and an untracked one, with which the same things are done",
        CaseTier::Daily,
        &modules(["dm_mod", "loop", "md_mod", "raid1"]),
        layout,
        |guest, context| Box::pin(act(guest, context)),
    )
    .making(&[Fault::TakenDevice])
}]);

const fn program(program: &'static str, package: &'static str) -> HostProgram {
    HostProgram { program, package }
}

/// What the scripts call.
pub const PROGRAMS: &[HostProgram] = &[
    program("dash", "dash"),
    program("dd", "coreutils"),
    program("tr", "coreutils"),
    program("ls", "coreutils"),
    program("cp", "coreutils"),
    program("cat", "coreutils"),
    program("sleep", "coreutils"),
    program("mkdir", "coreutils"),
    program("cmp", "diffutils"),
    program("grep", "grep"),
    program("mount", "mount"),
    program("umount", "mount"),
    program("unshare", "util-linux"),
    program("blockdev", "util-linux"),
    program("wipefs", "util-linux"),
    program("blkid", "util-linux"),
    program("mke2fs", "e2fsprogs"),
    program("e2fsck", "e2fsprogs"),
    program("dumpe2fs", "e2fsprogs"),
    program("dmsetup", "dmsetup"),
];

/// The first program runs the scripts.
pub(super) const SHELL: HostProgram = PROGRAMS[0];

const SCRIPT: &str = include_str!("stale_cache.sh");
const SCRIPT_PATH: &str = "/tmp/stale-cache";

/// The disks: one is tracked, the other is laid out as it.
const TRACKED: [&str; 3] = ["/dev/vda", ORIGIN, "tracked"];
const CONTROL: [&str; 3] = ["/dev/vdc", "/dev/vdc1", "control"];

/// The second disk for an image has the COW file.
const COW_DISK: &str = "/dev/vdd";
const COW_MOUNT: &str = "/mnt/cow";

const ORIGIN_MIB: u32 = 24;
/// Room for images, which is that of the COW file.
const IMAGES: u32 = 4;

/// What the kernel may say of snapshots whose origin was taken away.
const LOG: ExpectedLog = &[FAILED];

/// The disks of `stale-cache`.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        images: IMAGES,
        ..Layout::raw_without_cow(ORIGIN_MIB)
    }
}

const fn spec(origin: &'static str) -> SnapshotSpec {
    SnapshotSpec {
        cache_mib: 4,
        ..snapshot_of(origin, 64)
    }
}

/// Plays `stale-cache`.
async fn act(guest: &mut GuestSession<'_, '_>, _: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    let (path, text) = (SCRIPT_PATH.into(), SCRIPT.into());
    guest.prepare(Request::WriteText { path, text }).await?;
    shell(
        guest,
        "PATH=/usr/sbin:/usr/bin mke2fs -q -F -t ext4 /dev/vdd",
    )
    .await?;
    guest.mount(COW_DISK, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let expected = script(guest, CONTROL).await?;
    check_control(&expected)?;

    guest.phase("snapshot");
    guest.setup_snapshot(spec(ORIGIN)).await?;
    compare(guest, &expected, "while there is a snapshot").await?;
    guest.active_snapshot(MINOR).await?;
    guest.copy_device(SNAPSHOT, "/dev/vdb").await?;
    guest.transition_to_incremental(MINOR).await?;
    compare(guest, &expected, "while changes are tracked").await?;

    guest.phase("removal");
    take_partition_away(guest).await?;
    for kind in [StackKind::Linear, StackKind::Loop, StackKind::Mirror] {
        take_apart(guest, kind).await?;
    }
    guest.phase("teardown");
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::failed_snapshot(LOG))
}

/// Runs a line of shell; the value is what it printed.
pub(super) async fn shell(guest: &mut GuestSession<'_, '_>, line: &str) -> CaseResult<String> {
    let shell = SHELL.path()?;
    guest.run(&shell, &["-c", line]).await
}

async fn script(guest: &mut GuestSession<'_, '_>, disk: [&str; 3]) -> CaseResult<Vec<String>> {
    let shell = SHELL.path()?;
    let [whole, part, name] = disk;
    let said = guest.run(&shell, &[SCRIPT_PATH, whole, part, name]).await?;
    Ok(said.lines().map(ToOwned::to_owned).collect())
}

/// With the disk that nobody tracks everything works; otherwise nothing is compared.
fn check_control(outcomes: &[String]) -> CaseResult<()> {
    let failed = outcomes.iter().find(|outcome| {
        let code = outcome
            .split(": ")
            .last()
            .and_then(|code| code.parse().ok());
        code.is_some_and(|code: u8| code != 0)
    });
    match failed {
        Some(outcome) => Err(CaseError::Failed(format!(
            "with the untracked disk: {outcome}"
        ))),
        None => Ok(()),
    }
}

async fn compare(
    guest: &mut GuestSession<'_, '_>,
    expected: &[String],
    when: &str,
) -> CaseResult<()> {
    let found = script(guest, TRACKED).await?;
    let differs = expected
        .iter()
        .zip(&found)
        .find(|(expected, found)| expected != found);
    if let Some((expected, found)) = differs {
        return Err(CaseError::Failed(format!(
            "{when}, the origin is not as an untracked disk is: \"{found}\" instead of \"{expected}\""
        )));
    }
    if expected.len() != found.len() || found.is_empty() {
        return Err(CaseError::Failed(format!(
            "{when}, {} outcomes instead of {}",
            found.len(),
            expected.len()
        )));
    }
    guest.note(format!("{when}: {} outcomes as untracked", found.len()));
    Ok(())
}

/// The tracked partition is deleted, and made again in another place under the same number.
async fn take_partition_away(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    const DISK: &str = TRACKED[0];
    const START_BYTES: u64 = 1 << 20;
    const ELSEWHERE_BYTES: u64 = 512 << 10;
    let bytes = u64::from(ORIGIN_MIB) << 20;
    guest.makes(Fault::TakenDevice)?;
    let delete = PartitionChange::Delete;
    guest.change_partition(DISK, 1, delete).await?;
    let elsewhere = PartitionChange::Add {
        start_bytes: START_BYTES + ELSEWHERE_BYTES,
        bytes: bytes - ELSEWHERE_BYTES,
    };
    guest.change_partition(DISK, 1, elsewhere).await?;
    expect_gone(guest, "removed").await?;
    guest.change_partition(DISK, 1, delete).await?;
    let as_before = PartitionChange::Add {
        start_bytes: START_BYTES,
        bytes,
    };
    guest.change_partition(DISK, 1, as_before).await
}

/// A stacked origin is taken apart while its snapshot is there, and put together again under the same
/// number.
async fn take_apart(guest: &mut GuestSession<'_, '_>, kind: StackKind) -> CaseResult<()> {
    let (below, device): (&[&str], _) = match kind {
        StackKind::Loop => (&[ORIGIN], LOOP),
        StackKind::Mirror => (&[ORIGIN, CONTROL[1]], "/dev/md0"),
        _ => (&[ORIGIN], "/dev/dm-0"),
    };
    guest.stack(below, kind).await?;
    let taken = guest.setup_snapshot(spec(device)).await;
    match taken {
        // Before 5.14, md counts nothing in flight.
        Err(CaseError::Failed(reason)) if kind == StackKind::Mirror => {
            guest.note(format!("no snapshot of md: {reason}"));
            return guest.unstack(kind).await;
        }
        taken => taken?,
    };
    guest.makes(Fault::TakenDevice)?;
    guest.unstack(kind).await?;
    expect_gone(
        guest,
        if kind == StackKind::Loop {
            "detached"
        } else {
            "removed"
        },
    )
    .await?;
    // Whoever has the snapshot keeps such an origin, as any reader of it would.
    guest.stack(below, kind).await?;
    guest.setup_snapshot(spec(device)).await?;
    guest.copy_device(SNAPSHOT, "/dev/vdb").await?;
    guest.transition_to_incremental(MINOR).await?;
    guest.unstack(kind).await?;
    expect_gone(
        guest,
        if kind == StackKind::Loop {
            "detached"
        } else {
            "removed"
        },
    )
    .await
}

async fn expect_gone(guest: &mut GuestSession<'_, '_>, named: &str) -> CaseResult<()> {
    guest.wait_until_failed(MINOR, named).await?;
    guest.destroy_snapshot(MINOR).await
}
