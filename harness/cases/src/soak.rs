//! A long mixed load: snapshots of three volumes, one of them a mounted filesystem, that are taken, copied,
//! transitioned, put together into sets and destroyed at random, while writers come and go on all of them.
//! Every image and every change map on the way is kept and judged at the end.

use std::time::{Duration, Instant};

use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::soak::{SoakEvidence, SoakVolume};
use cowbird_host::background::in_background;
use cowbird_host::disk;
use cowbird_host::nature::FurtherDisk;
use cowbird_model::{BlockSet, MarkerKey};
use cowbird_proto::message::{FsChurnSpec, RawWritersSpec, WorkloadSpec};
use cowbird_proto::rng::Rng;
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec, Workload, vacuous};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{COW_MOUNT, IMAGE, SNAPSHOT};
use crate::raw_writers;
use crate::subject::{CasesOf, Subject};

/// The case of this file.
pub static CASES: CasesOf = Subject::Endurance.cases(&[case(
    "soak",
    "a long mixed load with snapshots taken, copied, transitioned and destroyed at random",
    CaseTier::Full,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)]);

/// The raw origins: 6 MiB and five sectors.
const ORIGIN_SECTORS: u32 = 6 * MIB_SECTORS + 5;

/// The mounted one, which has to fit into the image of a raw one as well.
const THIRD_MIB: u32 = 6;

/// The filesystems of the COW files.
const COW_HOME_MIB: u32 = 48;

/// Every block of an origin may be overwritten.
const COW_MIB: u32 = 10;

/// How long it goes on unless the plan says otherwise.
const DEFAULT_LENGTH: Duration = Duration::from_secs(90);

/// The witness keeps every write, so that the raw writers may do so much on average, bytes in a second.
const PACE: u64 = 3 << 20;

/// And the one of files does one operation in so many us.
const CHURN_PAUSE_US: u64 = 5_000;

/// Images kept at most: some GiB.
const MOST_IMAGES: usize = 500;

/// Actions while the same writers are at work.
const ACTIONS: (u64, u64) = (4, 16);

/// Pause before an action, ms.
const PAUSE_MS: u64 = 60;

/// How many blocks may be held in memory, MiB.
const CACHE_MIB: (u64, u64) = (1, 6);

const THIRD_MOUNT: &str = "/mnt/third";

/// What a volume is called.
struct Names {
    spec: SnapshotSpec,
    snapshot: &'static str,
    image: &'static str,
    /// Index of the image in [`Soak::shown`].
    image_index: usize,
}

const fn spec(origin: &'static str, cow_file: &'static str, minor: u32) -> SnapshotSpec {
    SnapshotSpec {
        origin,
        cow_file,
        cow_mib: COW_MIB,
        cache_mib: 4,
        minor,
    }
}

const VOLUMES: [Names; 3] = [
    Names {
        spec: spec("/dev/vda1", "/mnt/cow/first.cow", 0),
        snapshot: SNAPSHOT,
        image: IMAGE,
        image_index: 0,
    },
    Names {
        spec: spec("/dev/vdc1", "/mnt/cow2/second.cow", 1),
        snapshot: "/dev/cowbird1",
        image: "/dev/vdd",
        image_index: 1,
    },
    Names {
        spec: spec("/dev/vda3", "/mnt/cow/third.cow", 2),
        snapshot: "/dev/cowbird2",
        image: IMAGE,
        image_index: 0,
    },
];

/// What is being done to a volume.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Free,
    Snapshot(MarkerKey),
    Tracking,
}

/// The disks of `soak`.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB).with_third(THIRD_MIB)
    }
}

/// Plays `soak`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.mount("/dev/vdc2", "/mnt/cow2", "").await?;
    guest.mount("/dev/vda3", THIRD_MOUNT, "discard").await?;
    let churn = guest.start_workload(churn(context.seed)).await?;

    guest.phase("soak");
    let mut soak = Soak {
        rng: Rng::for_part(context.seed, 0x50AC),
        states: [State::Free; 3],
        shown: [None; 2],
        evidence: evidence(context),
        counts: Counts::default(),
    };
    let begin = Instant::now();
    let length = context.soak.unwrap_or(DEFAULT_LENGTH);
    let mut written = 0;
    while begin.elapsed() < length {
        let writers = soak.start_writers(guest).await?;
        for _ in 0..soak.rng.between(ACTIONS.0, ACTIONS.1) {
            soak.step(guest).await?;
        }
        for writers in &writers {
            written += guest.stop_workload(writers).await?.bytes_written;
        }
        guest.keep_kernel_log().await?;
        while written > PACE * begin.elapsed().as_secs() && begin.elapsed() < length {
            guest.vm().pause(Duration::from_millis(100)).await?;
        }
    }
    written += guest.stop_workload(&churn).await?.bytes_written;
    guest.note(format!(
        "{:.0} s, {} MiB written, {}",
        begin.elapsed().as_secs_f64(),
        written >> 20,
        soak.counts
    ));

    guest.phase("teardown");
    for (volume, names) in VOLUMES.iter().enumerate() {
        if soak.states[volume] != State::Free {
            guest.destroy_snapshot(names.spec.minor).await?;
        }
    }
    for mount in [THIRD_MOUNT, "/mnt/cow2", COW_MOUNT] {
        guest.unmount(mount).await?;
    }
    guest.remove_module().await?;
    if soak.counts.images == 0 {
        return Err(vacuous("no image was made"));
    }
    Ok(Evidence::of(Claim::Soak(soak.evidence)))
}

fn evidence(context: &CaseContext) -> SoakEvidence {
    let third = context.third_range();
    let volume = |kept, name, origin| SoakVolume {
        name,
        second_disk: false,
        origin,
        filesystem: false,
        own: BlockSet::new(),
        kept,
        at_byte: 0,
        images: Vec::new(),
        maps: Vec::new(),
        restored: false,
    };
    SoakEvidence {
        volumes: vec![
            volume(0, "volume 0", context.origin_range()),
            SoakVolume {
                second_disk: true,
                ..volume(1, "volume 1", context.origin_range())
            },
            SoakVolume {
                filesystem: true,
                ..volume(2, "volume 2", third)
            },
        ],
    }
}

fn churn(seed: u64) -> WorkloadSpec {
    WorkloadSpec::FsChurn(FsChurnSpec {
        root: THIRD_MOUNT.into(),
        seed,
        threads: 2,
        files_per_thread: 8,
        max_file_bytes: 64 << 10,
        golden_files: 4,
        // It is never told of an instant.
        budget_after_epoch_bytes: u64::MAX,
        pause_us: CHURN_PAUSE_US,
    })
}

/// How often what was done.
#[derive(Default)]
struct Counts {
    setups: u32,
    sets: u32,
    tracked: u32,
    switches: u32,
    images: usize,
    updates: u32,
    reconfigured: u32,
    destroyed: u32,
    reloaded: u32,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} snapshots set up, {} to incremental, {} to the next snapshot, {} of these calls for several \
             volumes, {} images ({} by change maps), {} reconfigured, {} destroyed, module loaded again {} times",
            self.setups,
            self.tracked,
            self.switches,
            self.sets,
            self.images,
            self.updates,
            self.reconfigured,
            self.destroyed,
            self.reloaded
        )
    }
}

struct Soak {
    rng: Rng,
    states: [State; 3],
    /// What each image shows.
    shown: [Option<MarkerKey>; 2],
    evidence: SoakEvidence,
    counts: Counts,
}

impl Soak {
    async fn start_writers(
        &mut self,
        guest: &mut GuestSession<'_, '_>,
    ) -> CaseResult<Vec<Workload>> {
        let mut all = Vec::new();
        for names in &VOLUMES[..2] {
            let spec = WorkloadSpec::RawWriters(RawWritersSpec {
                device: names.spec.origin.into(),
                seed: self.rng.next_u64(),
                pairs: self.rng.between(1, 3) as u32,
                discard_every: self.rng.below(3) * 8,
                rest_at_bytes: 0,
            });
            all.push(guest.start_workload(spec).await?);
        }
        Ok(all)
    }

    /// Does one thing, to one volume or to several.
    async fn step(&mut self, guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
        let pause = Duration::from_millis(self.rng.below(PAUSE_MS));
        guest.vm().pause(pause).await?;
        let volume = self.rng.below(3) as usize;
        match (self.states[volume], self.rng.below(100)) {
            (State::Free, 0..10) => self.reload_module(guest).await,
            (State::Free, _) => self.set_up(guest, volume).await,
            (State::Snapshot(marker), 0..45) => self.image(guest, volume, marker).await,
            (State::Snapshot(_), 45..60) => self.reconfigure(guest, volume).await,
            (State::Snapshot(_), 60..85) => self.track(guest, volume).await,
            (State::Tracking, 0..80) => self.switch(guest, volume).await,
            (State::Snapshot(_) | State::Tracking, _) => self.destroy(guest, volume).await,
        }
    }

    /// The volume, and at random the others in the same state.
    fn set_of(&mut self, volume: usize) -> Vec<usize> {
        let states = self.states;
        let mut set: Vec<usize> = (0..VOLUMES.len())
            .filter(|other| states[*other] == states[volume])
            .filter(|other| *other == volume || self.rng.percent(50))
            .collect();
        set.sort_unstable();
        if set.len() > 1 {
            self.counts.sets += 1;
        }
        set
    }

    async fn set_up(&mut self, guest: &mut GuestSession<'_, '_>, volume: usize) -> CaseResult<()> {
        let set = self.set_of(volume);
        let specs: Vec<SnapshotSpec> = set.iter().map(|volume| VOLUMES[*volume].spec).collect();
        let markers = guest.setup_snapshots(&specs).await?;
        for (volume, marker) in set.into_iter().zip(markers) {
            self.states[volume] = State::Snapshot(marker);
            self.counts.setups += 1;
        }
        Ok(())
    }

    async fn track(&mut self, guest: &mut GuestSession<'_, '_>, volume: usize) -> CaseResult<()> {
        guest
            .transition_to_incremental(VOLUMES[volume].spec.minor)
            .await?;
        self.states[volume] = State::Tracking;
        self.counts.tracked += 1;
        Ok(())
    }

    async fn switch(&mut self, guest: &mut GuestSession<'_, '_>, volume: usize) -> CaseResult<()> {
        let set = self.set_of(volume);
        let minors: Vec<u32> = set
            .iter()
            .map(|volume| VOLUMES[*volume].spec.minor)
            .collect();
        let markers = guest.transition_to_snapshots(&minors).await?;
        for ((volume, minor), marker) in set.into_iter().zip(minors).zip(markers) {
            self.states[volume] = State::Snapshot(marker);
            let map = guest.changes(minor).await?;
            self.evidence.volumes[volume].maps.push(map);
            self.counts.switches += 1;
        }
        Ok(())
    }

    /// Makes the image show the snapshot, by the change map where that is enough, and keeps a copy.
    async fn image(
        &mut self,
        guest: &mut GuestSession<'_, '_>,
        volume: usize,
        marker: MarkerKey,
    ) -> CaseResult<()> {
        if self.counts.images >= MOST_IMAGES {
            return Ok(());
        }
        let names = &VOLUMES[volume];
        let shown = &mut self.shown[names.image_index];
        let maps = &self.evidence.volumes[volume].maps;
        let leads_here = maps
            .last()
            .is_some_and(|map| map.to == marker && *shown == Some(map.from));
        if leads_here {
            guest
                .update_image(names.spec.minor, names.snapshot, names.image)
                .await?;
            self.counts.updates += 1;
        } else {
            guest.copy_image(names.snapshot, names.image).await?;
        }
        *shown = Some(marker);
        let images = &mut self.evidence.volumes[volume].images;
        images.push(marker);
        self.counts.images += 1;
        let (files, number) = (guest.files().clone(), images.len());
        Ok(in_background(move || {
            let image = match volume {
                1 => files.second().image(),
                _ => files.image(),
            };
            disk::copy_sparse(&image, &files.kept_image(volume, number))
        })
        .await?)
    }

    async fn reconfigure(
        &mut self,
        guest: &mut GuestSession<'_, '_>,
        volume: usize,
    ) -> CaseResult<()> {
        let mib = self.rng.between(CACHE_MIB.0, CACHE_MIB.1) as u32;
        self.counts.reconfigured += 1;
        guest.reconfigure(VOLUMES[volume].spec.minor, mib).await
    }

    async fn destroy(&mut self, guest: &mut GuestSession<'_, '_>, volume: usize) -> CaseResult<()> {
        guest.destroy_snapshot(VOLUMES[volume].spec.minor).await?;
        self.states[volume] = State::Free;
        self.counts.destroyed += 1;
        Ok(())
    }

    /// When nothing holds the module.
    async fn reload_module(&mut self, guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
        if self.states.iter().any(|state| *state != State::Free) {
            return Ok(());
        }
        guest.remove_module().await?;
        self.counts.reloaded += 1;
        guest.insert_module().await
    }
}
