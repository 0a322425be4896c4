//! Origin and COW file on disks with logical blocks of different sizes, and an origin that can no longer be read where its
//! blocks are preserved: reads of the snapshot that do not begin and end where blocks do.

use std::time::Duration;

use cowbird_model::MarkerKey;
use cowbird_proto::message::{Request, Rule, RuledPiece, StackKind};

use super::{COW_HOME, COW_MOUNT, IMAGE, Layout, MINOR, ORIGIN, SNAPSHOT, Setting, vacuous};
use crate::driver::{CaseResult, Driver, RULED, SnapshotSpec};
use crate::verify::{Evidence, SnapshotEvidence};

/// 8 MiB and five sectors: the last block is short.
const ORIGIN_SECTORS: u32 = 8 * 2048 + 5;
/// The same in logical blocks of 4096 bytes: 8 MiB and one.
const LARGE_ORIGIN_SECTORS: u32 = 8 * 2048 + 8;

/// Every block may be overwritten, and the tracking state needs some room.
const COW_MIB: u32 = 16;
/// The filesystem of the COW file, with its journal and inode tables.
const COW_HOME_MIB: u32 = 64;

/// Every second piece of so many bytes is overwritten.
const PIECE_BYTES: u64 = 28 * 1024;

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
pub(super) fn layout() -> Layout {
    Layout {
        cow_disk: Some((COW_HOME_MIB, 4096)),
        cow_home: None,
        ..Layout::raw(ORIGIN_SECTORS, 0)
    }
}

/// It has smaller ones.
pub(super) fn layout_reversed() -> Layout {
    Layout {
        cow_disk: Some((COW_HOME_MIB, 512)),
        cow_home: None,
        logical_block_bytes: 4096,
        ..Layout::raw(LARGE_ORIGIN_SECTORS, 0)
    }
}

/// Both on one disk.
pub(super) fn layout_errors() -> Layout {
    Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
}

pub(super) async fn act(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    let read_bytes = match setting.layout.logical_block_bytes {
        512 => ODD_READ_BYTES,
        _ => EVEN_READ_BYTES,
    };
    guest.phase("setup");
    guest.mount(setting.cow_home(), COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let marker = overwritten(guest, setting, ORIGIN).await?;
    guest.phase("copy");
    guest.copy_in_reads_of(SNAPSHOT, IMAGE, read_bytes).await?;
    tear_down(guest).await?;
    Ok(judged(setting, marker))
}

/// Where the origin was overwritten it cannot be read any more, which is nothing to its snapshot. Reads are long: what
/// they want from the origin lies on both sides of what it does not give.
pub(super) async fn act_errors(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    guest.stack_ruled(ORIGIN).await?;
    let marker = overwritten(guest, setting, RULED).await?;
    let broken: Vec<RuledPiece> = pieces(setting.layout.origin.length_bytes())
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
    Ok(judged(setting, marker))
}

/// A snapshot of a device that shows the first partition, half of which has been overwritten since, the last block
/// with it, and what was preserved is in the COW file.
async fn overwritten(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
    origin: &'static str,
) -> CaseResult<MarkerKey> {
    guest.phase("snapshot");
    let marker = guest.setup_snapshot(spec(origin)).await?;
    guest.expect_size(SNAPSHOT, setting.layout.origin).await?;
    guest.phase("overwrite");
    let before = guest.active_snapshot(MINOR).await?.cow_slots_used;
    for (at, bytes) in pieces(setting.layout.origin.length_bytes()) {
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
            return Ok(marker);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(vacuous("what is preserved does not get to the COW file"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What is overwritten, as places and bytes: every second piece, and the last block.
fn pieces(origin_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let last = (origin_bytes - 1) / 4096 * 4096;
    let step = 2 * PIECE_BYTES;
    (0..last / step)
        .map(move |n| (n * step, PIECE_BYTES))
        .chain([(last, origin_bytes - last)])
}

async fn tear_down(guest: &mut Driver<'_, '_>) -> CaseResult<()> {
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await
}

fn judged(setting: &Setting, marker: MarkerKey) -> Evidence {
    Evidence::Snapshot(SnapshotEvidence::new(marker, setting.origin_range()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overwritten_ends_with_the_last_block() {
        let bytes = u64::from(ORIGIN_SECTORS) * 512;
        let all: Vec<_> = pieces(bytes).collect();
        assert_eq!(all.last(), Some(&(8 << 20, 5 * 512)));
        assert!(all.windows(2).all(|two| two[0].0 + two[0].1 < two[1].0));
    }
}
