//! Origin and COW file on disks with logical blocks of different sizes, and an origin that can no longer be read where its
//! blocks are preserved: reads of the snapshot that do not begin and end where blocks do.

//!
//! Nobody writes to the origin before the snapshot, so the image must be what the disk was before the boot. The COW file, in
//! which the instant is marked, lies on a disk without a witness.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use cowbird_checks::verify::Evidence;
use cowbird_host::error::PathContext;
use cowbird_proto::message::{Request, Rule, RuledPiece, StackKind};
use cowbird_session::driver::{CaseError, CaseResult, Driver, RULED, SnapshotSpec, vacuous};
use cowbird_vm::layout::Layout;

use crate::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use crate::setting::Setting;

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

/// Bytes of a read of a snapshot whose unit is a sector: almost none begins or ends where a block does.
const ODD_READ_BYTES: u32 = 3 * 4096 + 512;
/// Of a snapshot whose unit is a block.
const EVEN_READ_BYTES: u32 = 3 * 4096;
/// Of a read that goes across many pieces.
const LONG_READ_BYTES: u32 = 1 << 20;

/// The preserved blocks are in the COW file after so long.
const STORED_LIMIT: Duration = Duration::from_secs(30);

const fn spec(origin: &'static str) -> SnapshotSpec {
    SnapshotSpec {
        origin,
        cow_file: "/mnt/cow/snapshot.cow",
        cow_mib: COW_MIB,
        cache_mib: 1,
        minor: MINOR,
    }
}

/// The disk of the COW file has larger blocks than the origin's.
pub fn layout() -> Layout {
    Layout {
        cow_disk: Some((COW_HOME_MIB, 4096)),
        cow_home: None,
        ..Layout::raw(ORIGIN_SECTORS, 0)
    }
}

/// It has smaller ones.
pub fn layout_reversed() -> Layout {
    Layout {
        cow_disk: Some((COW_HOME_MIB, 512)),
        cow_home: None,
        logical_block_bytes: 4096,
        ..Layout::raw(LARGE_ORIGIN_SECTORS, 0)
    }
}

/// Both on one disk.
pub fn layout_errors() -> Layout {
    Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
}

/// Plays `mixed-sectors` and `mixed-sectors-reversed`.
pub async fn act(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    let read_bytes = match setting.layout.logical_block_bytes {
        512 => ODD_READ_BYTES,
        _ => EVEN_READ_BYTES,
    };
    guest.phase("setup");
    guest.mount(setting.cow_home(), COW_MOUNT, "").await?;
    guest.insert_module().await?;
    overwritten(guest, setting, ORIGIN, PIECE_STEP).await?;
    guest.phase("copy");
    guest.copy_in_reads_of(SNAPSHOT, IMAGE, read_bytes).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    compared(guest, setting)
}

/// Where the origin was overwritten it cannot be read any more, which is nothing to its snapshot. Reads are long: what
/// they want from the origin lies on both sides of what it does not give.
pub async fn act_errors(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    guest.stack_ruled(ORIGIN).await?;
    overwritten(guest, setting, RULED, BROKEN_STEP).await?;
    let broken: Vec<RuledPiece> = pieces(setting.layout.origin.length_bytes(), BROKEN_STEP)
        .map(|(at, bytes)| RuledPiece {
            start: at / 512,
            sectors: bytes / 512,
            rule: Rule::FailReads,
        })
        .collect();
    guest.rule(ORIGIN, &broken).await?;
    guest.phase("copy");
    guest
        .copy_in_reads_of(SNAPSHOT, IMAGE, LONG_READ_BYTES)
        .await?;
    guest.phase("teardown");
    guest.rule(ORIGIN, &[]).await?;
    guest.destroy_snapshot(MINOR).await?;
    guest.unstack(StackKind::Ruled).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    compared(guest, setting)
}

/// A snapshot of a device that shows the first partition, pieces of which have been been overwritten since, and the last
/// block with them, and what was preserved is in the COW file.
async fn overwritten(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
    origin: &'static str,
    step: u64,
) -> CaseResult<()> {
    guest.phase("snapshot");
    guest.setup_snapshot(spec(origin)).await?;
    guest.expect_size(SNAPSHOT, setting.layout.origin).await?;
    guest.phase("overwrite");
    let before = guest.active_snapshot(MINOR).await?.cow_slots_used;
    for (at, bytes) in pieces(setting.layout.origin.length_bytes(), step) {
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
fn compared(guest: &Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    let origin = setting.layout.origin;
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
        None => Ok(Evidence::WitnessOnly),
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
