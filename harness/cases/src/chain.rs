//! A long series: in each epoch the image is brought up to date by the change map alone, and the snapshot is also
//! copied whole. Both are kept, and each must show its epoch, all blocks; so must, in the end, the origin that the
//! image is restored to. A change that a map misses in any epoch stays in every later image until the block changes
//! again, and one that is wrong for one epoch only is seen in that one.

use std::time::Duration;

use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::soak::{SoakEvidence, SoakVolume};
use cowbird_host::background::in_background;
use cowbird_host::disk;
use cowbird_model::BlockSet;
use cowbird_proto::message::{RawWritersSpec, WorkloadSpec};
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec, vacuous};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{MINOR, SNAPSHOT, snapshot_of};
use crate::subject::{CasesOf, Subject};
use crate::{raw_writers, restored};

/// The case of this file.
pub static CASES: CasesOf = Subject::Volume.cases(&[case(
    "incremental-chain",
    "24 epochs; in each the snapshot and the image that is kept up to date, in the end the restored disk",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)]);

/// 2 MiB and five sectors.
const ORIGIN_SECTORS: u32 = 2 * MIB_SECTORS + 5;

const COW_MIB: u32 = 6;

/// The filesystem of the COW file.
const COW_HOME_MIB: u32 = 24;

/// Epochs, the first one included.
const EPOCHS: usize = 24;

/// Data written in each epoch while changes are tracked: so little that most blocks of an image are from epochs
/// before.
const BYTES_BETWEEN: u64 = 64 << 10;

/// Time for it.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// The disks of `incremental-chain`.
fn layout() -> Layout {
    Layout {
        images: 2,
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
    }
}

/// Plays `incremental-chain`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let writers = WorkloadSpec::RawWriters(RawWritersSpec {
        device: context.origin().into(),
        seed: context.seed,
        pairs: 2,
        discard_every: 8,
        rest_at_bytes: 0,
    });
    let writers = guest.start_workload(writers).await?;
    let mut written = 0;
    let (mut instants, mut maps) = (Vec::new(), Vec::new());

    guest.phase("chain");
    for epoch in 1..=EPOCHS {
        guest
            .wait_for_more(&writers, &mut written, BYTES_BETWEEN, WRITE_LIMIT)
            .await?;
        if epoch == 1 {
            instants.push(guest.setup_snapshot(spec(context)).await?);
            guest.copy_image(SNAPSHOT, context.image()).await?;
        } else {
            instants.push(guest.transition_to_snapshot(MINOR).await?);
            maps.push(guest.changes(MINOR).await?);
            guest.update_image(MINOR, SNAPSHOT, context.image()).await?;
        }
        let behind = context.layout.image_stride_bytes();
        guest
            .copy_device_to(SNAPSHOT, context.image(), behind)
            .await?;
        let files = guest.files().clone();
        in_background(move || disk::copy_sparse(&files.image(), &files.kept_image(0, epoch)))
            .await?;
        if epoch < EPOCHS {
            guest.transition_to_incremental(MINOR).await?;
        }
    }
    let end = guest.stop_workload(&writers).await?;
    let device = guest.active_snapshot(MINOR).await?;
    if device.seq_id != EPOCHS as u64 || end.bytes_written == written {
        return Err(vacuous("the series did not get as far as it should"));
    }

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    restored::restore(guest, context).await?;
    let volume = |name, at_byte| SoakVolume {
        name,
        second_disk: false,
        origin: context.origin_range(),
        filesystem: false,
        own: BlockSet::new(),
        kept: 0,
        at_byte,
        images: instants.clone(),
        maps: Vec::new(),
        restored: false,
    };
    let updated = SoakVolume {
        maps,
        restored: true,
        ..volume("updated", 0)
    };
    let copied = volume("copied whole", context.layout.image_stride_bytes());
    let volumes = vec![updated, copied];
    Ok(Evidence::of(Claim::Soak(SoakEvidence { volumes })))
}

fn spec(context: &CaseContext) -> SnapshotSpec {
    SnapshotSpec {
        cache_mib: 4,
        ..snapshot_of(context.origin(), COW_MIB)
    }
}
