//! The cases: what is done in the guest, told as a story, and what must then be true.

mod above;
mod amplified;
mod boots;
mod chain;
mod databases;
mod exerciser;
mod expand;
mod faults;
mod fio_profiles;
mod freezing;
mod fs_churn;
mod hot_read;
mod incremental;
mod kinds;
mod large;
mod layout;
mod many_cuts;
mod many_snapshots;
mod mishaps;
mod mixed_sectors;
mod other_namespace;
mod persistence;
mod power_cuts;
mod raw_writers;
mod reconfigure;
mod recorded;
mod refusals;
mod regressions;
mod restored;
mod root_volume;
mod self_test;
mod series;
mod soak;
mod stacked;
mod stale_cache;
mod stuck;
mod sync_above;
mod throttled;
mod throttled_set;
mod topology;
mod tracer;
mod two_volumes;
mod whole_disk;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::Duration;

use cowbird_proto::message::StackKind;
use serde::Serialize;

use crate::driver::{CaseResult, Driver};
use crate::error::HarnessResult;
use crate::program::{FIO, HostProgram};
use crate::recorded::Replay;
use crate::trials::TrialPlan;
use crate::verify::Evidence;
use crate::vm::command::Bus;
pub(crate) use layout::{Layout, Setting};
use stuck::asleep::Sleep;
use stuck::cow_stops::Moment;
use topology::Topology;

/// The origin in the guest.
const ORIGIN: &str = "/dev/vda1";

/// The second partition of the first disk: where the COW file is, when it is not on the origin.
const COW_HOME: &str = "/dev/vda2";

/// Where [`COW_HOME`] is mounted.
const COW_MOUNT: &str = "/mnt/cow";

/// The snapshot device.
const SNAPSHOT: &str = "/dev/cowbird0";

/// Number of [`SNAPSHOT`].
const MINOR: u32 = 0;

/// The second disk: the image.
const IMAGE: &str = "/dev/vdb";

/// How often a case is worth its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseTier {
    /// For every change.
    Quick,
    /// Once a day.
    Daily,
    /// Before a release.
    Full,
}

/// The case that runs the shrunk cells of the past. It comes first.
pub const REGRESSIONS: &str = "regressions";

type Act = for<'a> fn(&'a mut Driver<'_, '_>, &'a Setting) -> ActFuture<'a>;
type ActFuture<'a> = Pin<Box<dyn Future<Output = CaseResult<Evidence>> + Send + 'a>>;

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct CaseInfo {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// What it is for, in one sentence.
    pub summary: &'static str,
    /// How often it runs.
    pub tier: CaseTier,
    /// Modules of the kernel that it needs; those that are built in count as there.
    pub needs_modules: &'static [&'static str],
    /// Whether the module under test and the control tool go into the guest.
    pub(crate) uses_module: bool,
    /// Whether the tracer goes into the guest.
    pub(crate) uses_tracer: bool,
    /// Programs of the host that go into the guest.
    pub programs: &'static [HostProgram],
    /// Other files of the host that do, as (path in the guest, path on the host).
    pub(crate) files: fn() -> HarnessResult<Vec<(String, PathBuf)>>,
    layout: fn() -> Layout,
    /// What it is made of, if that is a topology; the layout is then that of the topology.
    topology: Option<&'static Topology>,
    act: Act,
}

impl CaseInfo {
    /// What is on the disks: with a recorded workload or with scripts, the volume that they need. `soak`: how
    /// long the long load goes on; `cuts`: how many snapshot instants the cases made of topologies have.
    pub(crate) fn setting(
        &self,
        seed: u64,
        replay: Option<Replay>,
        soak: Option<Duration>,
        trials: &[TrialPlan],
        cuts: Option<u32>,
    ) -> Setting {
        let layout = match &replay {
            Some(replay) => recorded::layout(replay),
            None if trials.is_empty() => self.topology.map_or_else(self.layout, Topology::layout),
            None => regressions::layout(trials),
        };
        Setting {
            layout,
            seed,
            replay,
            soak,
            trials: trials.to_vec(),
            topology: self.topology,
            cuts,
        }
    }

    /// Does it.
    pub(crate) fn act<'a>(
        &self,
        driver: &'a mut Driver<'_, '_>,
        setting: &'a Setting,
    ) -> ActFuture<'a> {
        (self.act)(driver, setting)
    }
}

/// Modules that every guest needs, whether built in or not. What they depend on softly (ext4 on
/// crc32c, under a name that changes between kernels) the store adds.
const GUEST_MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_blk", "ext4"];

/// [`GUEST_MODULES`] and at most four more; a name may be there twice.
const fn modules<const N: usize>(more: [&'static str; N]) -> [&'static str; 8] {
    let [pci, console, blk, ext4] = GUEST_MODULES;
    let mut all = [pci, console, blk, ext4, ext4, ext4, ext4, ext4];
    let mut index = 0;
    while index < N {
        all[GUEST_MODULES.len() + index] = more[index];
        index += 1;
    }
    all
}

const fn case(
    name: &'static str,
    summary: &'static str,
    tier: CaseTier,
    needs_modules: &'static [&'static str],
    layout: fn() -> Layout,
    act: Act,
) -> CaseInfo {
    CaseInfo {
        name,
        summary,
        tier,
        needs_modules,
        uses_module: true,
        uses_tracer: false,
        programs: &[],
        files: || Ok(Vec::new()),
        layout,
        topology: None,
        act,
    }
}

/// The case with the tracer in its guest.
const fn traced(case: CaseInfo) -> CaseInfo {
    CaseInfo {
        uses_tracer: true,
        ..case
    }
}

/// The order is that of the results.
static CASES: &[CaseInfo] = &[
    case(
        REGRESSIONS,
        "what failed once, shrunk to a few operations: every file of harness/regressions in one boot",
        CaseTier::Quick,
        &GUEST_MODULES,
        || Layout::bare(0),
        |driver, setting| Box::pin(regressions::act(driver, setting)),
    ),
    case(
        "ext4-churn",
        "ext4 with concurrent writers, deletes and truncates while its snapshot is copied",
        CaseTier::Quick,
        &GUEST_MODULES,
        fs_churn::layout_ext4,
        |driver, setting| Box::pin(fs_churn::act(driver, setting)),
    ),
    case(
        "raw-writers",
        "raw partition of odd size with pairs of writers on the same blocks, and discards",
        CaseTier::Quick,
        &GUEST_MODULES,
        raw_writers::layout,
        |driver, setting| Box::pin(raw_writers::act(driver, setting)),
    ),
    case(
        "hot-read",
        "many readers of snapshot blocks that are overwritten at the same moment",
        CaseTier::Quick,
        &GUEST_MODULES,
        hot_read::layout,
        |driver, setting| Box::pin(hot_read::act(driver, setting)),
    ),
    case(
        "hot-read-amplified",
        "hot-read on an origin that delays reads and writes, with CPUs that go and come",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        hot_read::layout,
        |driver, setting| Box::pin(amplified::hot_reads(driver, setting)),
    ),
    case(
        "raw-writers-amplified",
        "raw-writers on an origin that delays reads and writes, with CPUs that go and come",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        raw_writers::layout,
        |driver, setting| Box::pin(amplified::raw_writes(driver, setting)),
    ),
    case(
        "incremental",
        "an image kept up to date through three epochs by changed blocks alone",
        CaseTier::Daily,
        &GUEST_MODULES,
        incremental::layout,
        |driver, setting| Box::pin(incremental::act(driver, setting)),
    ),
    case(
        "incremental-chain",
        "24 epochs; in each the snapshot and the image that is kept up to date, in the end the restored disk",
        CaseTier::Daily,
        &GUEST_MODULES,
        chain::layout,
        |driver, setting| Box::pin(chain::act(driver, setting)),
    ),
    case(
        "raw-kinds",
        "every kind of write to a raw partition, across two epochs",
        CaseTier::Daily,
        &GUEST_MODULES,
        kinds::layout_raw,
        |driver, setting| Box::pin(kinds::act(driver, setting)),
    ),
    case(
        "nvme-kinds",
        "the same on an NVMe disk, which has FUA",
        CaseTier::Daily,
        &modules(["nvme"]),
        kinds::layout_nvme,
        |driver, setting| Box::pin(kinds::act(driver, setting)),
    ),
    case(
        "ext4-kinds",
        "every kind of write to files of an ext4, one of them from another mount namespace",
        CaseTier::Daily,
        &GUEST_MODULES,
        kinds::layout_ext4,
        |driver, setting| Box::pin(kinds::act(driver, setting)),
    ),
    case(
        "series",
        "a series switched from snapshot to snapshot under writers on the same few blocks",
        CaseTier::Daily,
        &GUEST_MODULES,
        series::layout,
        |driver, setting| Box::pin(series::act(driver, setting)),
    ),
    case(
        "two-volumes",
        "snapshots of two disks and a filesystem at one instant, again and again",
        CaseTier::Daily,
        &GUEST_MODULES,
        two_volumes::layout,
        |driver, setting| Box::pin(two_volumes::act(driver, setting)),
    ),
    case(
        "reconfigure",
        "a snapshot whose memory for preserved blocks is bounded anew under writers",
        CaseTier::Daily,
        &GUEST_MODULES,
        reconfigure::layout,
        |driver, setting| Box::pin(reconfigure::act(driver, setting)),
    ),
    case(
        "expand",
        "a COW file that is expanded twice under writers, and needs it",
        CaseTier::Daily,
        &GUEST_MODULES,
        expand::layout,
        |driver, setting| Box::pin(expand::act(driver, setting)),
    ),
    case(
        "auto-expand",
        "a COW file that the tool expands by itself before it is full",
        CaseTier::Daily,
        &GUEST_MODULES,
        expand::layout_auto,
        |driver, setting| Box::pin(expand::act_auto(driver, setting)),
    ),
    case(
        "throttled",
        "writes that a cgroup's limit delays across the snapshot instant",
        CaseTier::Daily,
        &GUEST_MODULES,
        throttled::layout,
        |driver, setting| Box::pin(throttled::act(driver, setting)),
    ),
    case(
        "frozen",
        "a filesystem that others have frozen when its snapshot is asked for",
        CaseTier::Daily,
        &GUEST_MODULES,
        freezing::layout,
        |driver, setting| Box::pin(freezing::act_frozen(driver, setting)),
    ),
    case(
        "mounted-twice",
        "a filesystem that is mounted at two places",
        CaseTier::Daily,
        &GUEST_MODULES,
        freezing::layout,
        |driver, setting| Box::pin(freezing::act_twice(driver, setting)),
    ),
    case(
        "remount",
        "a read-only filesystem that is unmounted and mounted, old and new way, under its snapshot",
        CaseTier::Daily,
        &GUEST_MODULES,
        freezing::layout,
        |driver, setting| Box::pin(freezing::act_remount(driver, setting)),
    ),
    case(
        "frozen-home",
        "a filesystem that others have frozen and that is to hold the COW file",
        CaseTier::Daily,
        &GUEST_MODULES,
        other_namespace::layout,
        |driver, setting| Box::pin(other_namespace::act_frozen_home(driver, setting)),
    ),
    CaseInfo {
        programs: stale_cache::PROGRAMS,
        ..case(
            "other-namespace",
            "a filesystem that is mounted in another mount namespace only",
            CaseTier::Daily,
            &GUEST_MODULES,
            other_namespace::layout,
            |driver, setting| Box::pin(other_namespace::act(driver, setting)),
        )
    },
    CaseInfo {
        programs: stale_cache::PROGRAMS,
        ..case(
            "stale-cache",
            "a tracked disk and an untracked one, with which the same things are done",
            CaseTier::Daily,
            &modules(["dm_mod", "loop", "md_mod", "raid1"]),
            stale_cache::layout,
            |driver, setting| Box::pin(stale_cache::act(driver, setting)),
        )
    },
    CaseInfo {
        programs: exerciser::PROGRAMS,
        ..case(
            "exerciser",
            "a filesystem exerciser on a tracked disk and on an untracked one, with blocks of each size, and shutdowns",
            CaseTier::Daily,
            &GUEST_MODULES,
            exerciser::layout,
            |driver, setting| Box::pin(exerciser::act(driver, setting)),
        )
    },
    CaseInfo {
        programs: many_snapshots::PROGRAMS,
        ..case(
            "many-snapshots",
            "as many snapshots at once as there are numbers, and their filesystem unmounted under them",
            CaseTier::Full,
            &modules(["dm_mod"]),
            many_snapshots::layout,
            |driver, setting| Box::pin(many_snapshots::act(driver, setting)),
        )
    },
    case(
        "refusals",
        "btrfs, ZFS, a zoned device and one with DAX are refused",
        CaseTier::Daily,
        &modules(["btrfs", "null_blk", "nd_e820", "nd_pmem"]),
        refusals::layout,
        |driver, setting| Box::pin(refusals::act(driver, setting)),
    ),
    case(
        "no-answer",
        "a device that blocks whoever opens it, and snapshots of the one below it",
        CaseTier::Daily,
        &modules(["loop", "dm_mod", "dm_delay"]),
        raw_writers::layout,
        |driver, setting| Box::pin(refusals::act_no_answer(driver, setting)),
    ),
    CaseInfo {
        programs: mishaps::PROGRAMS,
        ..case(
            "mishaps",
            "mistakes at the command line: odd names, images onto what is in use, records that are none, no fallocate",
            CaseTier::Daily,
            &modules(["loop", "md_mod", "raid456"]),
            mishaps::layout,
            |driver, setting| Box::pin(mishaps::act(driver, setting)),
        )
    },
    CaseInfo {
        programs: mishaps::XFS_PROGRAMS,
        ..case(
            "cow-elsewhere",
            "a COW file on the realtime device of an xfs is refused, and nothing is damaged",
            CaseTier::Daily,
            &modules(["xfs"]),
            mishaps::layout_elsewhere,
            |driver, setting| Box::pin(mishaps::act_elsewhere(driver, setting)),
        )
    },
    case(
        "lazy-unmount",
        "unmounted lazily and in another mount namespace, and mounted again, while changes are tracked",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::lazy_unmount(driver, setting)),
    ),
    case(
        "module-away",
        "a snapshot, then a change map, that go on after the module was unloaded and loaded",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::away(driver, setting)),
    ),
    case(
        "written-meanwhile",
        "a volume that somebody writes to while the module is away",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::written_meanwhile(driver, setting)),
    ),
    case(
        "cow-replaced",
        "a COW file that is replaced by a copy of it while it is not held",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::cow_replaced(driver, setting)),
    ),
    case(
        "cow-full",
        "a COW file that becomes full while changes go on to be tracked",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::cow_full(driver, setting)),
    ),
    case(
        "origin-read-errors",
        "an origin that cannot be read while its snapshot is copied, then while it is overwritten",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        faults::layout,
        |driver, setting| Box::pin(faults::io_errors::origin_read(driver, setting)),
    ),
    case(
        "cow-write-errors",
        "a COW file that cannot be written under a snapshot, then while changes are tracked",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        faults::io_errors::layout_filesystem,
        |driver, setting| Box::pin(faults::io_errors::cow_write(driver, setting)),
    ),
    case(
        "loss-told-late",
        "a COW file that cannot be written for a moment, and then an orderly reboot: the series must not go on",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        faults::losses::layout_briefly,
        |driver, setting| Box::pin(faults::losses::briefly(driver, setting)),
    ),
    case(
        "loss-told-at-once",
        "changes that cannot be marked in a COW file that can be written otherwise: it says so before the next write goes",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        faults::losses::layout_briefly,
        |driver, setting| Box::pin(faults::losses::at_once(driver, setting)),
    ),
    case(
        "flush-at-instant",
        "the origin's disk, which is not the COW file's, is flushed at an instant and by a clean save",
        CaseTier::Daily,
        &GUEST_MODULES,
        faults::losses::layout_flush,
        |driver, setting| Box::pin(faults::losses::flushed(driver, setting)),
    ),
    case(
        "image-errors",
        "an image that cannot be written, and filesystems without room for image and COW file",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        faults::io_errors::layout_image,
        |driver, setting| Box::pin(faults::io_errors::image_write(driver, setting)),
    ),
    case(
        "tools-killed",
        "tools that are killed while they take a snapshot, copy it and bring an image up to date",
        CaseTier::Daily,
        &GUEST_MODULES,
        faults::layout,
        |driver, setting| Box::pin(faults::meddling::killed(driver, setting)),
    ),
    case(
        "meddling",
        "unloading, second snapshots of the same disk, and a clock that jumps",
        CaseTier::Daily,
        &GUEST_MODULES,
        faults::layout,
        |driver, setting| Box::pin(faults::meddling::meddled(driver, setting)),
    ),
    case(
        "little-memory",
        "a machine whose memory others have taken",
        CaseTier::Daily,
        &GUEST_MODULES,
        faults::layout,
        |driver, setting| Box::pin(faults::meddling::memory(driver, setting)),
    ),
    case(
        "read-only",
        "a filesystem that is made read-only and writable again",
        CaseTier::Daily,
        &GUEST_MODULES,
        faults::changing::layout_filesystem,
        |driver, setting| Box::pin(faults::changing::read_only(driver, setting)),
    ),
    case(
        "filesystem-grows",
        "a filesystem that becomes larger under its snapshot, and while changes are tracked",
        CaseTier::Daily,
        &GUEST_MODULES,
        faults::changing::layout_filesystem,
        |driver, setting| Box::pin(faults::changing::filesystem_grows(driver, setting)),
    ),
    case(
        "origin-grows",
        "a device that becomes larger under its snapshot",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        faults::layout,
        |driver, setting| Box::pin(faults::changing::origin_grows(driver, setting)),
    ),
    case(
        "hibernation",
        "a machine that hibernates to its origin, and comes back",
        CaseTier::Daily,
        &GUEST_MODULES,
        faults::changing::layout_swap,
        |driver, setting| Box::pin(faults::changing::hibernation(driver, setting)),
    ),
    case(
        "disk-removed",
        "a disk that is pulled under writers, and comes back",
        CaseTier::Daily,
        &modules(["virtio_scsi", "sd_mod"]),
        faults::changing::layout_scsi,
        |driver, setting| Box::pin(faults::changing::removed(driver, setting)),
    ),
    case(
        "unload-asleep",
        "the module is unloaded while readers and writers sleep for a request of the queue",
        CaseTier::Daily,
        &GUEST_MODULES,
        stuck::layout,
        |driver, setting| Box::pin(stuck::asleep::act(driver, setting, Sleep::Requests)),
    ),
    case(
        "unload-asleep-frozen",
        "the same with tasks that sleep because the queue is frozen",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::layout,
        |driver, setting| Box::pin(stuck::asleep::act(driver, setting, Sleep::FrozenQueue)),
    ),
    case(
        "unload-asleep-wbt",
        "the same with writeback that is throttled",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::layout,
        |driver, setting| Box::pin(stuck::asleep::act(driver, setting, Sleep::Writeback)),
    ),
    case(
        "unload-asleep-iocost",
        "the same with processes in a group that iocost lets do little",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::layout,
        |driver, setting| Box::pin(stuck::asleep::act(driver, setting, Sleep::Cost)),
    ),
    case(
        "unload-asleep-io-max",
        "the same with processes in a group that io.max lets do little",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::layout,
        |driver, setting| Box::pin(stuck::asleep::act(driver, setting, Sleep::Maximum)),
    ),
    case(
        "cow-disk-stops",
        "the disk of the COW file stops answering under a snapshot",
        CaseTier::Daily,
        &GUEST_MODULES,
        stuck::cow_stops::layout,
        |driver, setting| Box::pin(stuck::cow_stops::act(driver, setting, Moment::Snapshot)),
    ),
    case(
        "cow-disk-stops-long",
        "the same for ten minutes",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::cow_stops::layout,
        |driver, setting| Box::pin(stuck::cow_stops::act(driver, setting, Moment::Long)),
    ),
    case(
        "cow-disk-returns",
        "the same; it answers again before the snapshot is destroyed",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::cow_stops::layout,
        |driver, setting| Box::pin(stuck::cow_stops::act(driver, setting, Moment::Returns)),
    ),
    case(
        "cow-disk-stops-tracking",
        "the same while only changes are tracked",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::cow_stops::layout,
        |driver, setting| Box::pin(stuck::cow_stops::act(driver, setting, Moment::Tracking)),
    ),
    case(
        "cow-disk-stops-transition",
        "the same while the next snapshot of a series is taken",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::cow_stops::layout,
        |driver, setting| Box::pin(stuck::cow_stops::act(driver, setting, Moment::Transition)),
    ),
    case(
        "cow-disk-stops-power-off",
        "the same under a snapshot, and then the machine is powered off",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::cow_stops::layout,
        |driver, setting| Box::pin(stuck::cow_stops::act(driver, setting, Moment::PowerOff)),
    ),
    case(
        "slow-cow",
        "thousands of writes in flight, and a COW file on a disk that is slow but moves",
        CaseTier::Daily,
        &GUEST_MODULES,
        stuck::slow_cow::layout,
        |driver, setting| Box::pin(stuck::slow_cow::act(driver, setting)),
    ),
    case(
        "huge-write",
        "one write of many times the memory for preserved blocks, beside a small writer",
        CaseTier::Daily,
        &GUEST_MODULES,
        stuck::huge_write::layout,
        |driver, setting| Box::pin(stuck::huge_write::act(driver, setting)),
    ),
    case(
        "stuck-neighbours",
        "snapshots of a healthy disk beside others on which tasks sleep all the time",
        CaseTier::Daily,
        &modules(["dm_mod"]),
        stuck::neighbours::layout,
        |driver, setting| Box::pin(stuck::neighbours::act(driver, setting)),
    ),
    case(
        "throttled-cgroup",
        "two control groups that overwrite one origin, of which one may do next to nothing",
        CaseTier::Full,
        &GUEST_MODULES,
        stuck::layout,
        |driver, setting| Box::pin(stuck::slow_group::act(driver, setting)),
    ),
    case(
        "power-off",
        "a snapshot, then a change map, that go on after the machine was powered off and booted",
        CaseTier::Daily,
        &GUEST_MODULES,
        raw_writers::layout,
        |driver, setting| Box::pin(boots::power_off(driver, setting)),
    ),
    case(
        "power-cut",
        "changes that go on to be tracked after the power was cut, twice",
        CaseTier::Daily,
        &GUEST_MODULES,
        raw_writers::layout,
        |driver, setting| Box::pin(boots::power_cut(driver, setting)),
    ),
    case(
        "large-origin",
        "an origin of 2 TiB that is mostly empty, its COW file far away, through boots and a power cut",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        large::layout_large,
        |driver, setting| Box::pin(large::large(driver, setting)),
    ),
    case(
        "huge-origin",
        "as large-origin, with 20 TiB",
        CaseTier::Full,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        large::layout_huge_20,
        |driver, setting| Box::pin(large::huge_20(driver, setting)),
    ),
    case(
        "huge-origin-64",
        "as large-origin, with 64 TiB",
        CaseTier::Full,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        large::layout_huge_64,
        |driver, setting| Box::pin(large::huge_64(driver, setting)),
    ),
    case(
        "large-little-memory",
        "an origin of 6 TiB, whose maps a machine of 256 MiB cannot have",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        large::layout_too_large,
        |driver, setting| Box::pin(large::too_large(driver, setting)),
    ),
    case(
        "small-neighbour",
        "a writer on a disk of 2 TiB, and a small filesystem beside it that is unmounted again and again",
        CaseTier::Daily,
        &GUEST_MODULES,
        large::layout_neighbour,
        |driver, setting| Box::pin(large::neighbour(driver, setting)),
    ),
    case(
        "root-volume",
        "the root filesystem of a running system, through a reboot and a power cut with its boot hooks",
        CaseTier::Daily,
        &GUEST_MODULES,
        root_volume::layout,
        |driver, setting| Box::pin(root_volume::act(driver, setting)),
    ),
    case(
        "root-unhooked",
        "a root filesystem that is written to before the module is there, and copied anew",
        CaseTier::Daily,
        &GUEST_MODULES,
        root_volume::layout,
        |driver, setting| Box::pin(root_volume::act_unhooked(driver, setting)),
    ),
    case(
        "whole-disk",
        "a whole disk that is written through its partitions, COW file on one of them",
        CaseTier::Daily,
        &GUEST_MODULES,
        whole_disk::layout,
        |driver, setting| Box::pin(whole_disk::act(driver, setting)),
    ),
    case(
        "scsi",
        "a partition of a SCSI disk",
        CaseTier::Daily,
        &modules(["virtio_scsi", "sd_mod"]),
        || raw_writers::layout_on(Bus::Scsi),
        |driver, setting| Box::pin(raw_writers::act(driver, setting)),
    ),
    case(
        "nvme",
        "a partition of an NVMe disk",
        CaseTier::Daily,
        &modules(["nvme"]),
        || raw_writers::layout_on(Bus::Nvme),
        |driver, setting| Box::pin(raw_writers::act(driver, setting)),
    ),
    case(
        "large-sectors",
        "a partition of a disk with logical blocks of 4096 bytes",
        CaseTier::Daily,
        &GUEST_MODULES,
        raw_writers::layout_large_sectors,
        |driver, setting| Box::pin(raw_writers::act(driver, setting)),
    ),
    case(
        "mixed-sectors",
        "a COW file on a disk with larger logical blocks than the origin's",
        CaseTier::Daily,
        &GUEST_MODULES,
        mixed_sectors::layout,
        |driver, setting| Box::pin(mixed_sectors::act(driver, setting)),
    ),
    case(
        "mixed-sectors-reversed",
        "a COW file on a disk with smaller logical blocks than the origin's",
        CaseTier::Full,
        &GUEST_MODULES,
        mixed_sectors::layout_reversed,
        |driver, setting| Box::pin(mixed_sectors::act(driver, setting)),
    ),
    case(
        "read-across-errors",
        "an origin that cannot be read any more where its blocks are preserved, while its snapshot is copied",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        mixed_sectors::layout_errors,
        |driver, setting| Box::pin(mixed_sectors::act_errors(driver, setting)),
    ),
    case(
        "dm-linear",
        "a device-mapper device, which works on bios and has no queue to freeze",
        CaseTier::Daily,
        &modules(["dm_mod"]),
        raw_writers::layout,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Linear)),
    ),
    case(
        "dm-two-pieces",
        "a logical volume of two pieces that meet inside a block",
        CaseTier::Daily,
        &modules(["dm_mod"]),
        raw_writers::layout,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::TwoPieces)),
    ),
    case(
        "dm-crypt",
        "an encrypted device; the truth is what the witness saw, decrypted",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_crypt", "xts"]),
        stacked::layout_crypt,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Crypt)),
    ),
    case(
        "dm-thin",
        "a thin volume",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_thin_pool"]),
        stacked::layout_thin,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Thin)),
    ),
    case(
        "md-raid1",
        "a RAID 1 of two disks, both with a witness",
        CaseTier::Daily,
        &modules(["md_mod", "raid1"]),
        stacked::layout_mirror,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Mirror)),
    ),
    case(
        "loop",
        "a loop device with direct I/O on a partition",
        CaseTier::Daily,
        &modules(["loop"]),
        raw_writers::layout,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Loop)),
    ),
    case(
        "ext2-churn",
        "ext2, served by the ext4 driver, beside a mounted ext4 with the COW file",
        CaseTier::Daily,
        &GUEST_MODULES,
        fs_churn::layout_ext2,
        |driver, setting| Box::pin(fs_churn::act(driver, setting)),
    ),
    case(
        "ext3-churn",
        "ext3, beside a mounted ext4 with the COW file",
        CaseTier::Daily,
        &GUEST_MODULES,
        fs_churn::layout_ext3,
        |driver, setting| Box::pin(fs_churn::act(driver, setting)),
    ),
    case(
        "xfs-churn",
        "xfs that holds its own COW file",
        CaseTier::Daily,
        &modules(["xfs"]),
        fs_churn::layout_xfs,
        |driver, setting| Box::pin(fs_churn::act(driver, setting)),
    ),
    case(
        "ext4-mix",
        "ext4 and everything that changes files; the restored filesystem is mounted, read and checked",
        CaseTier::Daily,
        &GUEST_MODULES,
        fs_churn::layout_ext4,
        |driver, setting| Box::pin(fs_churn::act_mix(driver, setting)),
    ),
    case(
        "xfs-mix",
        "the same on xfs, with files that share blocks",
        CaseTier::Daily,
        &modules(["xfs"]),
        fs_churn::layout_xfs,
        |driver, setting| Box::pin(fs_churn::act_mix(driver, setting)),
    ),
    case(
        "f2fs-churn",
        "f2fs, beside a mounted ext4 with the COW file",
        CaseTier::Daily,
        &modules(["f2fs"]),
        fs_churn::layout_f2fs,
        |driver, setting| Box::pin(fs_churn::act(driver, setting)),
    ),
    CaseInfo {
        programs: &[FIO],
        ..case(
            "fio-profiles",
            "fio in five profiles under a snapshot; of what it wrote before, fio verifies the restored volume",
            CaseTier::Daily,
            &GUEST_MODULES,
            fio_profiles::layout,
            |driver, setting| Box::pin(fio_profiles::act(driver, setting)),
        )
    },
    CaseInfo {
        programs: &[databases::sqlite::SQLITE],
        ..case(
            "sqlite",
            "SQLite with both of its journals under load; the restored databases are sound and of the instant",
            CaseTier::Daily,
            &GUEST_MODULES,
            databases::layout,
            |driver, setting| Box::pin(databases::sqlite::act(driver, setting)),
        )
    },
    CaseInfo {
        programs: databases::postgresql::PROGRAMS,
        files: databases::postgresql::files,
        ..case(
            "postgresql",
            "PostgreSQL under load; it recovers from the restored volume, is sound and of the instant",
            CaseTier::Daily,
            &GUEST_MODULES,
            databases::postgresql::layout,
            |driver, setting| Box::pin(databases::postgresql::act(driver, setting)),
        )
    },
    case(
        "ext4-power-cuts",
        "a series on a busy ext4, and a hundred power cuts that are tried on its witness",
        CaseTier::Daily,
        &GUEST_MODULES,
        power_cuts::layout_ext4,
        |driver, setting| Box::pin(power_cuts::act(driver, setting)),
    ),
    case(
        "xfs-power-cuts",
        "a series on a busy xfs, and a hundred power cuts that are tried on its witness",
        CaseTier::Daily,
        &modules(["xfs"]),
        power_cuts::layout_xfs,
        |driver, setting| Box::pin(power_cuts::act(driver, setting)),
    ),
    case(
        "soak",
        "a long mixed load with snapshots taken, copied, transitioned and destroyed at random",
        CaseTier::Full,
        &GUEST_MODULES,
        soak::layout,
        |driver, setting| Box::pin(soak::act(driver, setting)),
    ),
    traced(CaseInfo {
        uses_module: false,
        ..case(
            "tracer",
            "the tracer's fingerprints of direct, cached and misaligned I/O, block by block",
            CaseTier::Daily,
            &GUEST_MODULES,
            tracer::layout,
            |driver, _| Box::pin(tracer::act(driver)),
        )
    }),
    traced(case(
        "hot-read-traced",
        "as hot-read, and the tracer must name the same wrong blocks without the witness",
        CaseTier::Daily,
        &GUEST_MODULES,
        hot_read::layout,
        |driver, setting| Box::pin(hot_read::act_traced(driver, setting)),
    )),
];

/// Those that are made of a topology are last.
static ALL: LazyLock<Vec<CaseInfo>> = LazyLock::new(|| {
    let of_topologies = topology::cases::CASES.iter();
    CASES.iter().chain(of_topologies).copied().collect()
});

/// The case of a recorded workload. Without one there is nothing to do, so it belongs to no tier.
static RECORDED: CaseInfo = case(
    "recorded",
    "a recorded workload, replayed across the snapshot instant and while the snapshot is copied",
    CaseTier::Full,
    &GUEST_MODULES,
    || Layout::bare(0),
    |driver, setting| Box::pin(recorded::act(driver, setting)),
);

/// All cases.
#[must_use]
pub fn cases() -> &'static [CaseInfo] {
    &ALL
}

/// The case of that name, self-tests included.
#[must_use]
pub fn find(name: &str) -> Option<&'static CaseInfo> {
    cases()
        .iter()
        .chain(&self_test::CASES)
        .chain([&RECORDED])
        .find(|case| case.name == name)
}

/// The case that replays a recorded workload. It belongs to no matrix without one.
#[must_use]
pub fn recorded_case() -> &'static CaseInfo {
    &RECORDED
}

/// Cases that put the harness itself on trial. They need no module, and belong to no matrix.
#[must_use]
pub fn self_test_cases() -> &'static [CaseInfo] {
    &self_test::CASES
}

/// A case that exercised nothing must not pass.
fn vacuous(what: &str) -> crate::driver::CaseError {
    let detail = format!("the case tested nothing: {what}; the host may be too slow");
    crate::error::HarnessError::Plan { detail }.into()
}
