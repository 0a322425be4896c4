//! A series of snapshots of a busy filesystem whose machine loses its power.
//!
//! Everything that the disk could hold at some hundred other instants of the same run is tried without
//! a machine: the epochs, the switches between them and the marks of regions are all in one witness.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::{GUEST_MODULES, modules};
use cowbird_cases::names::MINOR;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::power::Stop;
use cowbird_checks::power_cuts::{EarlierPowerCuts, PowerCuts};
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{FsChurnSpec, WorkloadSpec};
use cowbird_proto::rng::Rng;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec};
use cowbird_vm::layout::Layout;

/// The cases of this file.
pub static CASES: CasesOf = Subject::Endurance.cases(&[
    case(
        "ext4-power-cuts",
        "a series on a busy ext4, and a hundred power cuts that are tried on its witness",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_ext4,
        |guest, context| Box::pin(act(guest, context)),
    )
    .making(&[Fault::PowerCut]),
    case(
        "xfs-power-cuts",
        "a series on a busy xfs, and a hundred power cuts that are tried on its witness",
        CaseTier::Daily,
        &modules(["xfs"]),
        layout_xfs,
        |guest, context| Box::pin(act(guest, context)),
    )
    .making(&[Fault::PowerCut]),
]);

const ORIGIN_MIB: u32 = 112;

const MOUNT: &str = "/mnt/origin";

/// Room for what three epochs overwrite, one after the other.
const COW_MIB: u32 = 40;

/// Epochs of the series before the cut.
const EPOCHS: u32 = 3;

/// Data written in each state of each epoch, at least.
const BYTES_BETWEEN: u64 = 2 << 20;

/// Time for [`BYTES_BETWEEN`].
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Cuts that are tried on the witness.
const CUTS: u32 = 100;

/// The disks of `ext4-power-cuts`.
fn layout_ext4() -> Layout {
    Layout::filesystem(Filesystem::Ext4, ORIGIN_MIB)
}

/// The disks of `xfs-power-cuts`.
fn layout_xfs() -> Layout {
    Layout::filesystem(Filesystem::Xfs, ORIGIN_MIB)
}

/// Plays `ext4-power-cuts` and `xfs-power-cuts`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let filesystem = context.layout().filesystem.unwrap_or(Filesystem::Ext4);
    let spec = SnapshotSpec {
        origin: context.origin(),
        cow_file: "/mnt/origin/.cowbird",
        cow_mib: COW_MIB,
        cache_mib: 8,
        minor: MINOR,
    };
    let mount = async |guest: &mut GuestSession<'_, '_>| {
        guest
            .mount_as(context.origin(), MOUNT, filesystem.name(), "discard")
            .await
    };
    guest.phase("setup");
    mount(guest).await?;
    guest.insert_module().await?;
    let churn = guest.start_workload(churn(context.seed)).await?;
    let mut written = 0;
    let mut more = async |guest: &mut GuestSession<'_, '_>| {
        guest
            .wait_for_more(&churn, &mut written, BYTES_BETWEEN, WRITE_LIMIT)
            .await
    };
    more(guest).await?;

    guest.phase("epochs");
    let first = guest.setup_snapshot(spec).await?;
    let own = guest.own_blocks(spec).await?;
    for epoch in 1..=EPOCHS {
        more(guest).await?;
        guest.transition_to_incremental(MINOR).await?;
        more(guest).await?;
        if epoch < EPOCHS {
            guest.transition_to_snapshot(MINOR).await?;
        }
    }

    guest.phase("power cut");
    let mut rng = Rng::for_part(context.seed, 1);
    let stop = Stop::PowerCut {
        after: first,
        seed: rng.next_u64(),
    };
    guest.reboot(stop).await?;
    guest.phase("recovery");
    // The filesystem's own recovery must be able to live with it, or the states mean nothing.
    mount(guest).await?;
    guest.unmount(MOUNT).await?;
    Ok(Evidence::of(Claim::PowerCuts(EarlierPowerCuts {
        cuts: PowerCuts {
            first,
            origin: context.origin_range(),
            own,
            cuts: CUTS,
            seed: rng.next_u64(),
        },
        boot: 0,
    })))
}

fn churn(seed: u64) -> WorkloadSpec {
    WorkloadSpec::FsChurn(FsChurnSpec {
        root: MOUNT.into(),
        seed,
        threads: 4,
        files_per_thread: 24,
        max_file_bytes: 256 << 10,
        golden_files: 24,
        budget_after_epoch_bytes: 0,
        pause_us: 0,
    })
}
