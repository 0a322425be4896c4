//! What cannot be snapshot correctly is refused, for a reason that names it.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{COW_MOUNT, ORIGIN};
use cowbird_cases::raw_writers;
use cowbird_cases::stacked::LOOP;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{FaultTarget, InjectedFault, Request, StackKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, FAULTY, GuestSession};
use cowbird_vm::layout::Layout;

/// The cases of this file.
pub static CASES: CasesOf = Subject::Limits.cases(&[
    case(
        "refusals",
        "btrfs, ZFS, a zoned device and one with DAX are refused",
        CaseTier::Daily,
        &modules(["btrfs", "null_blk", "nd_e820", "nd_pmem"]),
        layout,
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "open-hangs",
        "a device that blocks whoever opens it, and snapshots of the one below it",
        CaseTier::Daily,
        &modules(["loop", "dm_mod", "dm_delay"]),
        raw_writers::layout,
        |guest, context| Box::pin(act_open_hangs(guest, context)),
    )
    .making(&[Fault::Delays]),
]);

/// The smallest btrfs that its tools make, sectors.
const BTRFS_SECTORS: u32 = 128 * 2048;

const COW_HOME_MIB: u32 = 80;

/// Memory of the guest that becomes a persistent one, which filesystems map directly.
const PERSISTENT_MEMORY: &str = "memmap=32M!768M";

/// Where the first superblock of a btrfs begins, bytes.
const BTRFS_BEGIN: u64 = 64 << 10;

/// Where the configuration in the first label of a device of ZFS ends, bytes, and the magic number of the checksum there.
const ZFS_CONFIGURATION_END: u64 = 128 << 10;
const ZFS_MAGIC: u64 = 0x0210_da7a_b10c_7a11;

/// Reads of a device that does not answer take so long, ms: longer than the case.
const NO_ANSWER_MS: u32 = 3_600_000;

/// The disks of `refusals`.
fn layout() -> Layout {
    Layout {
        filesystem: Some(Filesystem::Btrfs),
        kernel_parameters: PERSISTENT_MEMORY,
        ..Layout::raw(BTRFS_SECTORS, COW_HOME_MIB)
    }
}

/// Plays `refusals`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.phase("refuse");
    guest
        .mount_as(context.origin(), "/mnt/origin", "btrfs", "")
        .await?;
    guest
        .expect_refusal(raw_writers::spec(context.origin()), "btrfs")
        .await?;
    guest.unmount("/mnt/origin").await?;
    // It may be mounted through another of its devices.
    guest
        .expect_refusal(raw_writers::spec(context.origin()), "btrfs")
        .await?;

    let mut label = vec![0; 512];
    label[512 - 40..][..8].copy_from_slice(&ZFS_MAGIC.to_le_bytes());
    let request = Request::WriteDirect {
        path: context.origin().to_owned(),
        offset: BTRFS_BEGIN,
        content: vec![0; 4096],
    };
    guest.prepare(request).await?;
    let request = Request::WriteDirect {
        path: context.origin().to_owned(),
        offset: ZFS_CONFIGURATION_END - 512,
        content: label,
    };
    guest.prepare(request).await?;
    guest
        .expect_refusal(raw_writers::spec(context.origin()), "ZFS")
        .await?;

    // It is loaded without zones at first.
    let name = "null_blk".to_owned();
    guest.prepare(Request::RemoveModule { name }).await?;
    let request = Request::InsertModule {
        path: "/lib/null_blk.ko".to_owned(),
        params: "zoned=1 zone_size=16 gb=1 nr_devices=1".to_owned(),
    };
    guest.prepare(request).await?;
    guest
        .expect_refusal(raw_writers::spec("/dev/nullb0"), "zoned")
        .await?;

    guest
        .expect_refusal(raw_writers::spec("/dev/pmem0"), "DAX")
        .await?;

    guest.phase("teardown");
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::witness_only())
}

/// A loop device on the origin, whose partitions are being read from where no answer comes: opening it blocks in the
/// kernel. The tool gives it up, and snapshots of the origin are as always.
async fn act_open_hangs(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.stack_faulty(ORIGIN).await?;
    let silent = FaultTarget {
        start: 0,
        sectors: u64::MAX,
        fault: InjectedFault::Delay {
            reads_ms: NO_ANSWER_MS,
            writes_ms: 0,
        },
    };
    guest.inject_faults(ORIGIN, &[silent]).await?;
    // The task that opens it is blocked until the end, on purpose.
    guest
        .blocked_tasks_may_last(Duration::from_millis(NO_ANSWER_MS.into()))
        .await?;
    guest.stack(&[FAULTY], StackKind::Scanned).await?;
    guest.phase("refuse");
    guest
        .expect_refusal(raw_writers::spec(LOOP), "does not answer")
        .await?;
    let spec = raw_writers::spec(ORIGIN);
    let evidence =
        raw_writers::write_across_the_instant(guest, context, ORIGIN, spec, None).await?;
    guest.phase("teardown");
    // Reads that wait go on when the faults change.
    guest.inject_faults(ORIGIN, &[]).await?;
    guest.unstack(StackKind::Scanned).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    raw_writers::tear_down(guest).await?;
    Ok(evidence)
}
