//! Origin and COW file on disks with logical blocks of different sizes, and an origin that can no longer be read where its
//! blocks are preserved: reads of the snapshot that do not begin and end where blocks do.

//!
//! Nobody writes to the origin before the snapshot, so the image must be what the disk was before the boot. The COW file, in
//! which the instant is marked, lies on a disk without a witness.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_host::error::PathContext;
use cowbird_proto::message::{FaultTarget, InjectedFault, Request, StackKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, FAULTY, GuestSession, SnapshotSpec, vacuous};
use cowbird_vm::layout::{CowDisk, Layout};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::{GUEST_MODULES, modules};
use crate::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use crate::subject::{CasesOf, Subject};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Disks.cases(&[
    case(
        "mixed-sectors",
        "a COW file on a disk with larger logical blocks than the origin's",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "mixed-sectors-reversed",
        "a COW file on a disk with smaller logical blocks than the origin's",
        CaseTier::Full,
        &GUEST_MODULES,
        layout_reversed,
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "read-across-errors",
        "an origin that cannot be read any more where its blocks are preserved, while its snapshot is copied",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        layout_errors,
        |guest, context| Box::pin(act_errors(guest, context)),
    )
    .making(&[Fault::ReadErrors]),
    case(
        "cow-read-errors",
        "a COW file that cannot be read while the snapshot is copied, and then can be read again",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        layout_errors,
        |guest, context| Box::pin(act_cow_errors(guest, context)),
    )
    .making(&[Fault::ReadErrors, Fault::Delays]),
]);

/// 8 MiB and five sectors: the last block is short.
const ORIGIN_SECTORS: u32 = 8 * 2048 + 5;
/// The same in logical blocks of 4096 bytes: 8 MiB and one.
const LARGE_ORIGIN_SECTORS: u32 = 8 * 2048 + 8;

/// Every block may be overwritten, and the tracking state needs some room.
const COW_MIB: u32 = 16;
/// The filesystem of the COW file, with its journal and inode tables.
const COW_HOME_MIB: u32 = 64;

/// Pieces of so many bytes are overwritten.
const PIECE_BYTES: u64 = 28 * 1024;
/// One begins every so many bytes; of those that can no longer be read, there may not be many.
const PIECE_STEP: u64 = 2 * PIECE_BYTES;
const BROKEN_STEP: u64 = 512 * 1024;
/// Of those that are read from the COW file there are more than fit into memory.
const STORED_STEP: u64 = 128 * 1024;

/// Bytes of a read of a snapshot whose unit is a sector: almost none begins or ends where a block does.
const ODD_READ_BYTES: u32 = 3 * 4096 + 512;
/// Of a snapshot whose unit is a block.
const EVEN_READ_BYTES: u32 = 3 * 4096;
/// Of a read that goes across many pieces.
const LONG_READ_BYTES: u32 = 1 << 20;

/// Of one that the kernel makes many of, all under way at once, as it may read so far ahead itself, KiB.
const LARGE_READ_BYTES: u32 = 8 << 20;
const READ_AHEAD: &str = "/sys/block/cowbird0/queue/read_ahead_kb";
/// How long the COW file's disk takes for a read meanwhile.
const SLOW_READS: InjectedFault = InjectedFault::Delay {
    reads_ms: 200,
    writes_ms: 0,
};

/// Memory for preserved blocks, and as much as lets several reads at once be read ahead for.
const CACHE_MIB: u32 = 1;
const LARGE_CACHE_MIB: u32 = 8;

/// The preserved blocks are in the COW file after so long.
const STORED_LIMIT: Duration = Duration::from_secs(30);

const fn spec(origin: &'static str) -> SnapshotSpec {
    SnapshotSpec {
        cache_mib: CACHE_MIB,
        ..snapshot_of(origin, COW_MIB)
    }
}

/// The disk of the COW file has larger blocks than the origin's.
fn layout() -> Layout {
    Layout {
        cow_disk: Some(CowDisk::Own {
            mib: COW_HOME_MIB,
            logical_block_bytes: 4096,
        }),
        cow_home: None,
        ..Layout::raw(ORIGIN_SECTORS, 0)
    }
}

/// It has smaller ones.
fn layout_reversed() -> Layout {
    Layout {
        cow_disk: Some(CowDisk::Own {
            mib: COW_HOME_MIB,
            logical_block_bytes: 512,
        }),
        cow_home: None,
        logical_block_bytes: 4096,
        ..Layout::raw(LARGE_ORIGIN_SECTORS, 0)
    }
}

/// Both on one disk.
fn layout_errors() -> Layout {
    Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
}

/// Plays `mixed-sectors` and `mixed-sectors-reversed`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let read_bytes = match context.layout.logical_block_bytes {
        512 => ODD_READ_BYTES,
        _ => EVEN_READ_BYTES,
    };
    guest.phase("setup");
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    guest.insert_module().await?;
    overwritten(guest, context, ORIGIN, PIECE_STEP).await?;
    guest.phase("copy");
    guest.copy_in_reads_of(SNAPSHOT, IMAGE, read_bytes).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    compared(guest, context)
}

/// Where the origin was overwritten it cannot be read any more, which is nothing to its snapshot. Reads are long: what
/// they want from the origin lies on both sides of what it does not give.
async fn act_errors(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    guest.stack_faulty(ORIGIN).await?;
    overwritten(guest, context, FAULTY, BROKEN_STEP).await?;
    let broken: Vec<FaultTarget> = pieces(context.layout.origin.length_bytes(), BROKEN_STEP)
        .map(|(at, bytes)| FaultTarget {
            start: at / 512,
            sectors: bytes / 512,
            fault: InjectedFault::FailReads,
        })
        .collect();
    guest.inject_faults(ORIGIN, &broken).await?;
    guest.phase("copy");
    guest
        .copy_in_reads_of(SNAPSHOT, IMAGE, LONG_READ_BYTES)
        .await?;
    guest.phase("teardown");
    guest.inject_faults(ORIGIN, &[]).await?;
    guest.destroy_snapshot(MINOR).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    compared(guest, context)
}

/// A COW file that can be read slowly, so that many reads wait for what one of them has asked for, and then not at all, or
/// but for its beginning. A copy of the snapshot fails, which is all that happens: later, a copy is right.
async fn act_cow_errors(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.stack_faulty(COW_HOME).await?;
    guest.mount(FAULTY, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    overwritten(guest, context, ORIGIN, STORED_STEP).await?;
    let sectors = context.layout.cow_home.map_or(0, |home| home.sectors);
    let from = |start: u64, fault: InjectedFault| FaultTarget {
        start,
        sectors: u64::from(sectors) - start,
        fault,
    };

    guest.phase("copy slowly");
    forget_stored(guest).await?;
    let at_once = Request::WriteText {
        path: READ_AHEAD.to_owned(),
        text: (LARGE_READ_BYTES >> 10).to_string(),
    };
    guest.prepare(at_once).await?;
    guest
        .inject_faults(COW_HOME, &[from(0, SLOW_READS)])
        .await?;
    guest
        .copy_in_reads_of(SNAPSHOT, IMAGE, LARGE_READ_BYTES)
        .await?;
    guest.inject_faults(COW_HOME, &[]).await?;
    compared(guest, context)?;

    guest.phase("copy in vain");
    for start in [u64::from(sectors) / 16, 0] {
        forget_stored(guest).await?;
        guest
            .inject_faults(COW_HOME, &[from(start, InjectedFault::FailReads)])
            .await?;
        guest
            .expect_failure(
                &format!("copy-image {SNAPSHOT} {IMAGE}"),
                "cannot read the snapshot",
            )
            .await?;
        guest.inject_faults(COW_HOME, &[]).await?;
        guest.active_snapshot(MINOR).await?;
    }
    guest.phase("copy");
    guest
        .copy_in_reads_of(SNAPSHOT, IMAGE, LONG_READ_BYTES)
        .await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    guest.remove_module().await?;
    compared(guest, context)
}

/// Has the module forget what it still has in memory of stored blocks. Afterwards there is memory enough to read ahead.
async fn forget_stored(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.reconfigure(MINOR, CACHE_MIB).await?;
    guest.reconfigure(MINOR, LARGE_CACHE_MIB).await
}

/// A snapshot of a device that shows the first partition, pieces of which have been been overwritten since, and the last
/// block with them, and what was preserved is in the COW file.
async fn overwritten(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    origin: &'static str,
    step: u64,
) -> CaseResult<()> {
    guest.phase("snapshot");
    guest.setup_snapshot(spec(origin)).await?;
    guest.expect_size(SNAPSHOT, context.layout.origin).await?;
    guest.phase("overwrite");
    let before = guest.active_snapshot(MINOR).await?.cow_slots_used;
    for (at, bytes) in pieces(context.layout.origin.length_bytes(), step) {
        let request = Request::WriteDirect {
            path: origin.to_owned(),
            offset: at,
            content: vec![0xA5; usize::try_from(bytes).unwrap_or(0)],
        };
        guest.prepare(request).await?;
    }
    let deadline = tokio::time::Instant::now() + STORED_LIMIT;
    loop {
        let device = guest.active_snapshot(MINOR).await?;
        if device.preserved_blocks == 0 {
            return Err(vacuous("nothing was preserved"));
        }
        if device.cow_slots_used >= before + device.preserved_blocks {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(vacuous("what is preserved does not get to the COW file"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What is overwritten, as places and bytes: a piece in each step, and the last block.
fn pieces(origin_bytes: u64, step: u64) -> impl Iterator<Item = (u64, u64)> {
    let last = (origin_bytes - 1) / 4096 * 4096;
    (0..last / step)
        .map(move |n| (n * step, PIECE_BYTES))
        .chain([(last, origin_bytes - last)])
}

/// The image must be the origin as it was before the boot.
fn compared(guest: &GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let origin = context.layout.origin;
    let [base, image] = [guest.files().base(), guest.files().image()];
    let length = usize::try_from(origin.length_bytes()).unwrap_or(usize::MAX);
    let (mut before, mut copied) = (vec![0; length], vec![0; length]);
    for (path, at, content) in [
        (&base, origin.offset_bytes(), &mut before),
        (&image, 0, &mut copied),
    ] {
        File::open(path)
            .on("open", path)?
            .read_exact_at(content, at)
            .on("read", path)?;
    }
    let wrong: Vec<usize> = (before.chunks(4096).zip(copied.chunks(4096)))
        .enumerate()
        .filter_map(|(block, (before, copied))| (before != copied).then_some(block))
        .collect();
    match wrong.first() {
        None => Ok(Evidence::witness_only()),
        Some(first) => Err(CaseError::Failed(format!(
            "{} blocks of the image are not those of the origin at the instant, the first is {first}",
            wrong.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overwritten_ends_with_the_last_block() {
        let bytes = u64::from(ORIGIN_SECTORS) * 512;
        let all: Vec<_> = pieces(bytes, PIECE_STEP).collect();
        assert_eq!(all.last(), Some(&(8 << 20, 5 * 512)));
        assert!(all.windows(2).all(|two| two[0].0 + two[0].1 < two[1].0));
    }
}
