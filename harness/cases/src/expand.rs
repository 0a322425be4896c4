//! A COW file that is too small for what is overwritten, and is expanded twice under writers: the
//! image must show all blocks, of which most were preserved in the added room.

use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_proto::message::{RawWritersSpec, WorkloadSpec};
use cowbird_session::guest::{
    CaseError, CaseResult, GuestSession, SnapshotSpec, Workload, vacuous,
};
use cowbird_vm::layout::Layout;

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{MINOR, SNAPSHOT, snapshot_of};
use crate::raw_writers;
use crate::subject::{CasesOf, Subject};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Operation.cases(&[
    case(
        "expand",
        "a COW file that is expanded twice under writers, and needs it",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "auto-expand",
        "a COW file that the tool expands by itself before it is full",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_auto,
        |guest, context| Box::pin(act_auto(guest, context)),
    ),
]);

/// 16 MiB and five sectors.
const ORIGIN_SECTORS: u32 = 16 * 2048 + 5;

const COW_HOME_MIB: u32 = 64;

/// Sizes of the COW file, and of what is added to it, MiB. Only all of them together hold the origin.
const COW_MIB: u32 = 6;
const ADDED_MIB: [u32; 2] = [5, 8];

/// Blocks of 4096 bytes in one MiB.
const MIB_BLOCKS: u64 = 256;

/// Written before the instant, and after each expansion: less than the room that is there by then.
const BYTES: u64 = 3 << 20;

const LIMIT: Duration = Duration::from_secs(60);

/// Where the COW file is expanded by the tool itself: 24 MiB and five sectors.
const AUTO_ORIGIN_SECTORS: u32 = 24 * 2048 + 5;

/// The COW file then, and each step. It takes two steps, and half a COW file is room enough for what is written
/// until the tool has noticed.
const AUTO_COW_MIB: u32 = 12;
const STEP_MIB: u32 = 8;

/// Left free on its filesystem.
const RESERVE_MIB: u32 = 4;

/// So much is not free in the end; and so much is not on the whole filesystem.
const LARGE_STEP_MIB: u32 = 64;
const TOO_MUCH_MIB: u32 = 100_000;

/// The disks of `auto-expand`.
fn layout_auto() -> Layout {
    Layout::raw(AUTO_ORIGIN_SECTORS, COW_HOME_MIB)
}

/// As [`act`], but nobody says when.
async fn act_auto(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let (writers, mut written) = begin(guest, context).await?;

    guest.phase("snapshot");
    let marker = guest
        .setup_snapshot(SnapshotSpec {
            cow_mib: AUTO_COW_MIB,
            ..spec(context)
        })
        .await?;
    guest.auto_expand(MINOR, STEP_MIB, RESERVE_MIB).await?;

    guest.phase("overwrite");
    let wanted = u64::from(AUTO_COW_MIB + 2 * STEP_MIB) * MIB_BLOCKS;
    while guest.active_snapshot(MINOR).await?.cow_slots < wanted {
        guest
            .wait_for_more(&writers, &mut written, 1 << 20, LIMIT)
            .await?;
    }
    guest.stop_workload(&writers).await?;
    guest.copy_device(context.image(), context.origin()).await?;
    let device = guest.active_snapshot(MINOR).await?;
    if device.cow_slots_used <= wanted - u64::from(STEP_MIB) * MIB_BLOCKS {
        return Err(vacuous("the added room was not needed"));
    }
    guest
        .expect_auto_expand_refusal(MINOR, LARGE_STEP_MIB, TOO_MUCH_MIB, "are reserved")
        .await?;

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(ImageClaim::new(
        marker,
        context.origin_range(),
    )))
}

/// Writers that have written enough, and how much that is.
async fn begin(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<(Workload, u64)> {
    raw_writers::prepare(guest, context).await?;
    let writers = WorkloadSpec::RawWriters(RawWritersSpec {
        device: context.origin().into(),
        seed: context.seed,
        pairs: 1,
        discard_every: 0,
        rest_at_bytes: 0,
    });
    let writers = guest.start_workload(writers).await?;
    let mut written = 0;
    guest
        .wait_for_more(&writers, &mut written, BYTES, LIMIT)
        .await?;
    Ok((writers, written))
}

fn spec(context: &CaseContext) -> SnapshotSpec {
    SnapshotSpec {
        cache_mib: 1,
        ..snapshot_of(context.origin(), COW_MIB)
    }
}

/// The disks of `expand`.
fn layout() -> Layout {
    Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
}

/// Plays `expand`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let (writers, mut written) = begin(guest, context).await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(spec(context)).await?;
    for mib in ADDED_MIB {
        guest.expand_cow_file(MINOR, mib).await?;
        guest
            .wait_for_more(&writers, &mut written, BYTES, LIMIT)
            .await?;
    }
    guest.stop_workload(&writers).await?;

    guest.phase("overwrite");
    // Everything; the image disk is still empty.
    guest.copy_device(context.image(), context.origin()).await?;
    let device = guest.active_snapshot(MINOR).await?;
    let added: u32 = ADDED_MIB.iter().sum();
    if device.cow_slots != u64::from(COW_MIB + added) * MIB_BLOCKS {
        return Err(CaseError::Failed(format!(
            "the COW file was expanded to {} blocks",
            device.cow_slots
        )));
    }
    if device.cow_slots_used <= u64::from(COW_MIB + ADDED_MIB[0]) * MIB_BLOCKS {
        return Err(vacuous("the added room was not needed"));
    }

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("teardown");
    // With the snapshot the added room goes, or its filesystem could not be unmounted.
    guest.transition_to_incremental(MINOR).await?;
    let slots = guest.active_snapshot(MINOR).await?.cow_slots;
    if slots != u64::from(COW_MIB) * MIB_BLOCKS {
        return Err(CaseError::Failed(format!(
            "the added room outlives its snapshot: {slots} blocks"
        )));
    }
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(ImageClaim::new(
        marker,
        context.origin_range(),
    )))
}
