//! Instant after instant under writers above the origin, through topology after topology in one guest. Nothing is
//! copied: each change map is compared with the witness. A write that reaches the disk after an instant and is not in
//! the map that begins there was not seen by the epoch that it belongs to, so it was not preserved either. The writers
//! come back to a block only after many writes, so that no later write hides it.

use std::time::{Duration, Instant};

use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::soak::{SoakEvidence, SoakVolume};
use cowbird_host::disk::Filesystem;
use cowbird_host::nature::{FurtherDisk, OriginKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, GuestSession, Throttle};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::above::{self, Load};
use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::modules;
use crate::names::{COW_MOUNT, MINOR};
use crate::subject::{CasesOf, Subject};
use crate::topology::{self, Above, BESIDE, Topology};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Above.cases(&[
    case(
        "many-cuts-mapped",
        "instant after instant under writers on devices of device-mapper above the origin",
        CaseTier::Full,
        &modules(["dm_mod", "dm_crypt", "xts", "dm_thin_pool"]),
        layout,
        |guest, context| Box::pin(act(guest, context, &MAPPED)),
    )
    .making(&[Fault::SlowDisk]),
    case(
        "many-cuts-arrays",
        "the same with arrays, above the origin and below it",
        CaseTier::Full,
        &modules(["md_mod", "raid1", "raid456", "dm_mod"]),
        layout,
        |guest, context| Box::pin(act(guest, context, &ARRAYS)),
    )
    .making(&[Fault::SlowDisk]),
    case(
        "many-cuts-files",
        "the same with a loop device, a filesystem that the tools do not see, and swap",
        CaseTier::Full,
        &modules(["loop", "dm_mod"]),
        layout_files,
        |guest, context| Box::pin(act(guest, context, &FILES)),
    )
    .making(&[Fault::SlowDisk]),
]);

/// Instants of each topology.
const CUTS: u32 = 12;

/// What a writer has to itself; less where a filesystem has files of the writers beside that of a loop device.
const STRETCH_BYTES: u64 = 8 << 20;
const FILE_STRETCH_BYTES: u64 = 4 << 20;

/// The partition of an array is as large as in the cases of one topology. Smaller writes come back as late, and are still
/// more than a request holds.
const NESTED_STRETCH_BYTES: u64 = 1 << 20;
const NESTED_WRITE_BYTES: u32 = 128 << 10;
const _: () =
    assert!(above::WRITERS as u64 * NESTED_STRETCH_BYTES <= topology::NESTED.sectors as u64 * 512);

/// Partitions in which all writers have room, MiB.
const ROOM_MIB: u32 = 224;
const HOME_MIB: u32 = 72;

/// Written before each instant.
const BYTES_BEFORE: u64 = 2 << 20;

/// Devices of device-mapper.
pub static MAPPED: [&Topology; 6] = [
    &topology::LINEAR,
    &topology::STRIPED,
    &topology::CRYPT,
    &topology::CRYPT_INLINE,
    &topology::THIN,
    &topology::MAPPED_ABOVE,
];

/// Arrays, above the origin and below it.
pub static ARRAYS: [&Topology; 5] = [
    &topology::RAID1,
    &topology::RAID5,
    &topology::ARRAY_ABOVE,
    &topology::ARRAY_PART,
    &topology::VOLUME_ON_ARRAY,
];

/// What needs the filesystem on the first partition, and then what makes a swap area of it.
pub static FILES: [&Topology; 4] = [
    &topology::LOOP_ON_FILE,
    &topology::UNSEEN,
    &topology::SWAP,
    &topology::DISK_ABOVE,
];

/// Disks with room for all.
fn layout() -> Layout {
    Layout {
        kind: OriginKind::WholeDisk,
        further: FurtherDisk::Copy,
        ..Layout::raw(ROOM_MIB * MIB_SECTORS, HOME_MIB).with_zeros(ROOM_MIB)
    }
}

/// The disks of `many-cuts-files`.
fn layout_files() -> Layout {
    Layout {
        filesystem: Some(Filesystem::Ext4),
        content: Some(topology::make_large_loop_file),
        further: FurtherDisk::None,
        ..layout()
    }
}

/// Plays `many-cuts-mapped`, `many-cuts-arrays` and `many-cuts-files`.
async fn act(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    topologies: &[&'static Topology],
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(BESIDE, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let cuts = context.cuts.unwrap_or(CUTS);
    let mut volumes = Vec::new();
    for topology in topologies {
        if above::cannot_be(guest, topology) {
            let reason = "this kernel does not count what an array has in flight";
            guest.note(format!("{}: left out, because {reason}", topology.name));
            continue;
        }
        volumes.push(go_through(guest, context, topology, cuts).await?);
    }
    guest.phase("teardown");
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::of(Claim::Soak(SoakEvidence { volumes })))
}

/// All instants of one topology.
async fn go_through(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    topology: &'static Topology,
    cuts: u32,
) -> CaseResult<SoakVolume> {
    guest.phase("build");
    above::build(guest, topology).await?;
    let mut volume = above::volume(context, topology);
    let (stretch, write) = match (context.layout.filesystem, topology.above) {
        (Some(_), _) => (FILE_STRETCH_BYTES, above::WRITE_BYTES),
        (None, Above::Part(_)) => (NESTED_STRETCH_BYTES, NESTED_WRITE_BYTES),
        (None, _) => (STRETCH_BYTES, above::WRITE_BYTES),
    };
    let mut load = Load::start(guest, context, topology, stretch, write).await?;
    load.wait(guest, BYTES_BEFORE).await?;

    guest.phase("cuts");
    let begin = Instant::now();
    let mut in_tool = Duration::ZERO;
    above::slow_down(guest, topology.throttle).await?;
    for cut in 1..=cuts {
        load.wait(guest, BYTES_BEFORE).await?;
        let asked = Instant::now();
        if cut == 1 {
            above::set_up(guest, topology).await?;
        } else {
            guest.transition_to_snapshot(MINOR).await?;
        }
        in_tool += asked.elapsed();
        if cut == 1
            && let Some(offset) = topology.origin.cow_home_at(&context.layout)
        {
            volume.own = guest.own_blocks_at(above::spec(topology), offset).await?;
        }
        if cut > 1 {
            volume.maps.push(guest.changes(MINOR).await?);
        }
        // After the last one too: the COW file has no room for what the writers do until they are stopped.
        guest.transition_to_incremental(MINOR).await?;
    }
    guest.note(format!(
        "{}: {cuts} instants, {:.2} s each, {:.2} s of it until the tool has taken it",
        topology.name,
        begin.elapsed().as_secs_f64() / f64::from(cuts),
        in_tool.as_secs_f64() / f64::from(cuts),
    ));
    guest.stop_workload(&load.workload).await?;
    above::slow_down(guest, Throttle::NONE).await?;
    guest.active_snapshot(MINOR).await?;
    guest.destroy_snapshot(MINOR).await?;
    above::take_down(guest, topology).await?;
    guest.keep_kernel_log().await?;
    Ok(volume)
}
