//! A series that is switched to its next snapshot again and again while writers hammer on few
//! blocks. No write may fall between two epochs: each change map is compared with the truth at both
//! of its ends, and an image that is brought up to date by the maps alone must show the last epoch.

use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_proto::message::{Chase, RawWritersSpec, WorkloadSpec};
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec};
use cowbird_vm::layout::Layout;

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{MINOR, SNAPSHOT, snapshot_of};
use crate::raw_writers;
use crate::subject::{CasesOf, Subject};

/// The case of this file.
pub static CASES: CasesOf = Subject::Operation.cases(&[case(
    "series",
    "a series switched from snapshot to snapshot under writers on the same few blocks",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)]);

/// 3 MiB and five sectors: every block is written in every epoch.
const ORIGIN_SECTORS: u32 = 3 * 2048 + 5;

const COW_MIB: u32 = 8;

/// The filesystem of the COW file.
const COW_HOME_MIB: u32 = 24;

/// Switches from one snapshot to the next.
const SWITCHES: u32 = 8;

/// Data written before the first epoch, and while changes are tracked. So little that there are
/// blocks that only the moments of the switch touch.
const BYTES_BETWEEN: u64 = 128 << 10;

/// Time for it.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// The disks of `series`.
fn layout() -> Layout {
    Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
}

/// Plays `series`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let writers = WorkloadSpec::RawWriters(RawWritersSpec {
        device: context.origin().into(),
        seed: context.seed,
        pairs: 3,
        discard_every: 6,
        rest_at_bytes: 0,
    });
    let writers = guest.start_workload(writers).await?;
    let mut written = 0;
    let mut more = async |guest: &mut GuestSession<'_, '_>| {
        guest
            .wait_for_more(&writers, &mut written, BYTES_BETWEEN, WRITE_LIMIT)
            .await
    };
    more(guest).await?;

    guest.phase("copy");
    let mut marker = guest
        .setup_snapshot(SnapshotSpec {
            cache_mib: 4,
            ..snapshot_of(context.origin(), COW_MIB)
        })
        .await?;
    guest.copy_image(SNAPSHOT, context.image()).await?;

    guest.phase("switch");
    let mut maps = Vec::new();
    for switch in 1..=SWITCHES {
        guest.transition_to_incremental(MINOR).await?;
        more(guest).await?;
        marker = guest.transition_to_snapshot(MINOR).await?;
        if switch == SWITCHES {
            // What is read in the last epoch is judged by the last epoch.
            let chase = Chase {
                snapshot: SNAPSHOT.into(),
                shift_bytes: 0,
            };
            guest.epoch_passed(&writers, Some(chase)).await?;
        }
        maps.push(guest.changes(MINOR).await?);
        guest.update_image(MINOR, SNAPSHOT, context.image()).await?;
    }
    more(guest).await?;
    let end = guest.stop_workload(&writers).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .differing_reads(end.differing_reads)
            .with_maps(maps),
    ))
}
