//! What a snapshot costs the origin, and what the tracer costs: ratios between jobs of fio inside one boot of a guest.
//!
//! Absolute times of an emulated machine say nothing, and the same job on the same machine differs
//! from minute to minute. So every job with a snapshot is divided by the same job without, run just before it, and
//! every job under the eyes of the tracer by the mean of the same job before and after it; the spread over the
//! repetitions is given with the median, and the baseline is run once more at the end against the first one, as a
//! gauge of the noise.

pub mod fio;
pub mod profile;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cowbird_host::background::in_background;
use cowbird_host::disk::{self, Partition};
use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::{CellFiles, INITRAMFS_FILE};
use cowbird_host::initramfs::{self, Contents, TRACER, TRACER_TRIAL};
use cowbird_host::program::FIO;
use cowbird_proto::message::{Reply, Request};
use cowbird_session::fault::Declared;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SnapshotSpec};
use cowbird_session::machine::Machine;
use cowbird_session::phases::{CellProgress, PhaseClock};
use cowbird_session::plan::CellPlan;
use serde::Serialize;

use self::fio::{Job, Measured};
use self::profile::{Profile, Sampler};
use crate::cell::{cowbird_files, tracer_files};

/// The first partition of the disk, an ext4, MiB.
const FILESYSTEM_MIB: u32 = 2046;
/// The second one, which is read and overwritten as it is, MiB.
const RAW_MIB: u32 = 1024;
/// The disk, MiB: some room is in front of the partitions.
const DISK_MIB: u32 = FILESYSTEM_MIB + RAW_MIB + 2;
/// The file that is written, MiB; filled before anything is measured.
const FILE_MIB: u32 = 512;
/// I/Os of a random job.
const RANDOM_IOS: u32 = 30_000;
/// Room for everything that a repetition preserves, MiB.
const COW_MIB: u32 = 900;
/// Memory for preserved blocks: the default of the control tool, MiB.
const CACHE_MIB: u32 = 64;

const DEVICE: &str = "/dev/vda1";
const RAW: &str = "/dev/vda2";
const MOUNT: &str = "/mnt/origin";
const FILE: &str = "/mnt/origin/data";
const SNAPSHOT: &str = "/dev/cowbird0";
/// Where a trace is in the guest.
const TRACE: &str = "/tmp/bench.cbt";
const SPEC: SnapshotSpec = SnapshotSpec {
    origin: DEVICE,
    cow_file: "/mnt/origin/.cowbird",
    cow_mib: COW_MIB,
    cache_mib: CACHE_MIB,
    minor: 0,
};

/// The snapshot of the second partition; its COW file is on the first.
const RAW_SPEC: SnapshotSpec = SnapshotSpec {
    origin: RAW,
    cow_mib: RAW_COW_MIB,
    ..SPEC
};

/// Room for the blocks that [`RANDOM_IOS`] overwrite, and for the tracking state, MiB.
const RAW_COW_MIB: u32 = 160;

/// fio has so long for one job.
const JOB_LIMIT: Duration = Duration::from_secs(240);

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// 4 KiB random writes to blocks that are not preserved yet.
    RandomFirstTouch,
    /// The same writes again, all blocks preserved.
    RandomSecondTouch,
    /// 4 KiB random writes while only changes are tracked.
    RandomIncremental,
    /// 1 MiB sequential writes to blocks that are not preserved yet.
    SequentialFirstTouch,
    /// 1 MiB sequential writes, all blocks preserved.
    SequentialSecondTouch,
    /// 1 MiB sequential writes while only changes are tracked.
    SequentialIncremental,
    /// Sequential read of a snapshot whose blocks are on the origin, against the origin itself.
    SnapshotRead,
    /// Sequential read of a snapshot part of whose blocks are in the COW file.
    SnapshotReadPreserved,
    /// Sequential read of a snapshot with single preserved blocks all over it, against the origin before and after.
    SnapshotReadScattered,
    /// 4 KiB random writes while the tracer records, with its defaults: no contents.
    RandomTraced,
    /// The same with the fingerprints of all contents.
    RandomFingerprinted,
    /// The random baseline at the end against that at the beginning: the noise.
    RandomBaseline,
    /// The sequential baseline at the end against that at the beginning.
    SequentialBaseline,
}

/// One job and its baseline. Only what is divided means something outside of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Compared {
    /// With a snapshot.
    pub measured: Measured,
    /// Without.
    pub baseline: Measured,
}

impl Compared {
    /// I/Os per second with a snapshot, divided by those without.
    #[must_use]
    pub fn iops(&self) -> f64 {
        self.measured.iops / self.baseline.iops
    }

    /// 99th percentile of latency with a snapshot, divided by that without.
    #[must_use]
    pub fn p99(&self) -> f64 {
        self.measured.p99_us / self.baseline.p99_us
    }
}

/// What was measured on one kernel.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BenchResult {
    /// By mode, one for each repetition.
    pub jobs: BTreeMap<Mode, Vec<Compared>>,
    /// By mode, where the CPUs were, if that was asked for. A profiled job is slower.
    pub profiles: BTreeMap<Mode, Profile>,
    /// Most blocks that the module held in memory at any time, bytes.
    pub held_bytes: u64,
    /// What it was allowed to hold, bytes.
    pub held_limit_bytes: u64,
    /// Why traces are not complete, one for each such job: what the tracer does not record costs nothing.
    pub losses: Vec<String>,
}

/// Which of the costs are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What a snapshot costs.
    Snapshot,
    /// Of that, only reads of a snapshot with preserved blocks all over it.
    ScatteredRead,
    /// What the tracer costs.
    Tracer,
}

/// What is measured, and how often.
#[derive(Debug, Clone, Copy)]
pub struct BenchOptions {
    /// How often everything is measured.
    pub repetitions: u32,
    /// Whether the CPUs are looked at meanwhile. What is measured then is slower.
    pub profile: bool,
    /// Only this; none means all.
    pub part: Option<Part>,
}

impl BenchOptions {
    fn has(self, part: Part) -> bool {
        self.part.is_none_or(|only| {
            only == part || (only == Part::Snapshot && part == Part::ScatteredRead)
        })
    }
}

/// Runs the benchmark on the kernel of a plan. The case of the plan does not matter.
///
/// # Errors
/// When the machine or a job fails; whatever was measured before is lost.
pub async fn run_bench(
    plan: &CellPlan,
    options: BenchOptions,
    progress: &dyn CellProgress,
) -> Result<BenchResult, CaseError> {
    let mut clock = PhaseClock::new(progress);
    let files = CellFiles {
        dir: plan.work_dir.clone(),
    };
    clock.enter("prepare");
    let fio = prepare(plan, &files).await?;
    clock.enter("boot");
    let machine = Machine::unwitnessed(plan, files);
    let vm = machine.boot().await?;
    let mut bench = Bench {
        guest: GuestSession::new(vm, machine, &mut clock, Declared::by("bench", &[])),
        fio,
        options,
        result: BenchResult::default(),
    };
    let measured = bench.run().await;
    bench.guest.vm().stop().await;
    let result = bench.result;
    fs::remove_dir_all(&plan.work_dir).on("remove", &plan.work_dir)?;
    measured.map(|()| result)
}

/// Makes disk and initramfs; gives the path of fio in the guest.
async fn prepare(plan: &CellPlan, files: &CellFiles) -> HarnessResult<String> {
    fs::create_dir_all(&plan.work_dir).on("create", &plan.work_dir)?;
    let (plan, files) = (plan.clone(), files.clone());
    in_background(move || {
        let partition = Partition {
            start: 2048,
            sectors: FILESYSTEM_MIB * 2048,
        };
        let raw = Partition {
            start: partition.end(),
            sectors: RAW_MIB * 2048,
        };
        let bytes = u64::from(DISK_MIB) << 20;
        let partitions = [partition, raw];
        disk::create_partitioned(&files.origin(), bytes, 512, &partitions, &[], plan.seed)?;
        disk::make_filesystem(
            disk::Filesystem::Ext4,
            &files.origin(),
            partition,
            plan.seed,
        )?;
        // mkfs has made holes of what it will not read, and the first snapshot's COW file would lie in them.
        disk::make_solid(&files.origin())?;
        disk::create_sparse(&files.image(), 1 << 20)?;
        let (fio, mut guest_files) = (FIO.path()?, FIO.files()?);
        guest_files.extend(cowbird_files(&plan));
        guest_files.extend(tracer_files(&plan));
        let contents = Contents {
            guest_init: &plan.guest_init,
            boot_modules: &plan.boot_modules,
            files: &guest_files,
        };
        let path = plan.work_dir.join(INITRAMFS_FILE);
        fs::write(&path, initramfs::build(&contents)?).on("write", &path)?;
        Ok(fio)
    })
    .await
}

struct Bench<'a, 'p> {
    guest: GuestSession<'a, 'p>,
    fio: String,
    options: BenchOptions,
    result: BenchResult,
}

impl Bench<'_, '_> {
    async fn run(&mut self) -> CaseResult<()> {
        self.guest.phase("fill");
        self.guest.mount(DEVICE, MOUNT, "").await?;
        self.guest.insert_module().await?;
        self.fio(&Job::fill(FILE, FILE_MIB)).await?;
        // The first job after the fill pays for what the others do not.
        self.measure(&random(0)).await?;
        for repetition in 1..=self.options.repetitions {
            let seed = u64::from(repetition);
            if self.options.has(Part::Snapshot) {
                self.random_writes(seed).await?;
                self.sequential_writes().await?;
            }
            if self.options.has(Part::ScatteredRead) {
                self.scattered_reads(seed).await?;
            }
            if self.options.has(Part::Tracer) {
                self.traced_writes(seed).await?;
            }
        }
        for (mode, job) in [
            (Mode::RandomBaseline, random(1)),
            (Mode::SequentialBaseline, sequential()),
        ] {
            if let Some(first) = first_baseline(&self.result, mode) {
                self.compare(mode, &job, first).await?;
            }
        }
        Ok(())
    }

    async fn random_writes(&mut self, seed: u64) -> CaseResult<()> {
        self.guest.phase("random writes");
        let base = self.measure(&random(seed)).await?;
        self.guest.setup_snapshot(SPEC).await?;
        self.compare(Mode::RandomFirstTouch, &random(seed), base)
            .await?;
        self.compare(Mode::RandomSecondTouch, &random(seed), base)
            .await?;
        self.note_memory().await?;
        self.guest.transition_to_incremental(SPEC.minor).await?;
        // Blocks of a new epoch; which region is new in it is part of the price.
        self.compare(Mode::RandomIncremental, &random(seed + 1), base)
            .await?;
        self.guest.destroy_snapshot(SPEC.minor).await
    }

    async fn sequential_writes(&mut self) -> CaseResult<()> {
        self.guest.phase("sequential writes");
        let stream = self.measure(&sequential()).await?;
        let raw = self.measure(&read(DEVICE)).await?;
        self.guest.setup_snapshot(SPEC).await?;
        self.compare(Mode::SnapshotRead, &read(SNAPSHOT), raw)
            .await?;
        self.compare(Mode::SequentialFirstTouch, &sequential(), stream)
            .await?;
        self.compare(Mode::SequentialSecondTouch, &sequential(), stream)
            .await?;
        self.compare(Mode::SnapshotReadPreserved, &read(SNAPSHOT), raw)
            .await?;
        self.note_memory().await?;
        self.guest.transition_to_incremental(SPEC.minor).await?;
        self.compare(Mode::SequentialIncremental, &sequential(), stream)
            .await?;
        self.guest.destroy_snapshot(SPEC.minor).await
    }

    /// What a backup reads while the origin is in use: most blocks are on the origin, single ones in the COW file. The
    /// baseline is the mean of reading the origin in the same way right before and right after.
    async fn scattered_reads(&mut self, seed: u64) -> CaseResult<()> {
        self.guest.phase("scattered reads");
        self.guest.setup_snapshot(RAW_SPEC).await?;
        let overwrite = Job {
            target: RAW.into(),
            size_mib: RAW_MIB,
            ..random(seed)
        };
        self.measure(&overwrite).await?;
        let all = |target: &str| Job {
            size_mib: RAW_MIB,
            ..read(target)
        };
        let before = self.measure(&all(RAW)).await?;
        let mode = Mode::SnapshotReadScattered;
        let measured = self.measure_one_of(mode, &all(SNAPSHOT)).await?;
        let after = self.measure(&all(RAW)).await?;
        let device = self.guest.active_snapshot(RAW_SPEC.minor).await?;
        if device.preserved_blocks < u64::from(RANDOM_IOS) / 2 {
            let few = format!("only {} blocks were preserved", device.preserved_blocks);
            return Err(CaseError::Failed(few));
        }
        self.note(mode, measured, before.mean(after));
        self.guest.destroy_snapshot(RAW_SPEC.minor).await
    }

    /// Without a snapshot, with and without a recorder. The baseline is the mean of the jobs before and after.
    async fn traced_writes(&mut self, seed: u64) -> CaseResult<()> {
        self.guest.phase("traced writes");
        let mut before = self.measure(&random(seed)).await?;
        for (mode, options) in [
            (Mode::RandomTraced, [].as_slice()),
            (Mode::RandomFingerprinted, ["--fingerprints"].as_slice()),
        ] {
            let start = ["--tracer", TRACER, "record-start", TRACE];
            let start: Vec<&str> = start.iter().chain(options).copied().collect();
            self.guest.run(TRACER_TRIAL, &start).await?;
            let measured = self.measure_one_of(mode, &random(seed)).await?;
            let stop = ["--tracer", TRACER, "record-stop", TRACE];
            self.guest.run(TRACER_TRIAL, &stop).await?;
            let info = self.guest.run_to_any_end(TRACER, &["info", TRACE]).await?;
            if info.code != Some(0) {
                self.result.losses.push(info.stderr.trim().to_owned());
            }
            let after = self.measure(&random(seed)).await?;
            self.note(mode, measured, before.mean(after));
            before = after;
        }
        Ok(())
    }

    async fn note_memory(&mut self) -> CaseResult<()> {
        let device = self.guest.active_snapshot(SPEC.minor).await?;
        let held = device.memory_peak_blocks * BLOCK_BYTES;
        self.result.held_bytes = self.result.held_bytes.max(held);
        self.result.held_limit_bytes = u64::from(CACHE_MIB) << 20;
        Ok(())
    }

    async fn compare(&mut self, mode: Mode, job: &Job, baseline: Measured) -> CaseResult<()> {
        let measured = self.measure_one_of(mode, job).await?;
        self.note(mode, measured, baseline);
        Ok(())
    }

    fn note(&mut self, mode: Mode, measured: Measured, baseline: Measured) {
        let jobs = self.result.jobs.entry(mode).or_default();
        jobs.push(Compared { measured, baseline });
    }

    /// With a profile, if that was asked for.
    async fn measure_one_of(&mut self, mode: Mode, job: &Job) -> CaseResult<Measured> {
        let sampler = self
            .options
            .profile
            .then(|| Sampler::start(Arc::clone(self.guest.vm().qmp())));
        let measured = self.measure(job).await?;
        if let Some(sampler) = sampler {
            self.take_profile(mode, sampler).await?;
        }
        Ok(measured)
    }

    /// The profile of the last repetition stays.
    async fn take_profile(&mut self, mode: Mode, sampler: Sampler) -> CaseResult<()> {
        let seen: Vec<(u64, u64)> = sampler.finish().await.into_iter().collect();
        let addresses = seen.iter().map(|(address, _)| *address).collect();
        let request = Request::NameAddresses { addresses };
        if let Reply::Names(names) = self.guest.prepare(request).await? {
            let profile = Profile::new(&seen, &names);
            self.result.profiles.insert(mode, profile);
        }
        Ok(())
    }

    async fn measure(&mut self, job: &Job) -> CaseResult<Measured> {
        // What the job before left to be written back is not this job's.
        self.guest.prepare(Request::SyncAll).await?;
        let report = self.fio(&job.arguments()).await?;
        Ok(job.parse(&report)?)
    }

    async fn fio(&mut self, arguments: &[String]) -> CaseResult<String> {
        let request = Request::Run {
            program: self.fio.clone(),
            args: arguments.to_vec(),
            timeout_ms: u64::try_from(JOB_LIMIT.as_millis()).unwrap_or(u64::MAX),
        };
        let reply = self.guest.prepare_within(request, JOB_LIMIT * 2).await?;
        match reply {
            Reply::Exited(exited) if exited.code == Some(0) => Ok(exited.stdout),
            reply => Err(HarnessError::Tool {
                tool: "fio",
                detail: format!("{reply:?}").chars().take(2000).collect(),
                hint: "run in the guest",
            }
            .into()),
        }
    }
}

/// The first baseline of the jobs that the last one is compared with.
fn first_baseline(result: &BenchResult, last: Mode) -> Option<Measured> {
    let modes = match last {
        Mode::RandomBaseline => [Mode::RandomFirstTouch, Mode::RandomTraced].as_slice(),
        _ => &[Mode::SequentialFirstTouch],
    };
    let jobs = modes.iter().find_map(|mode| result.jobs.get(mode))?;
    Some(jobs.first()?.baseline)
}

/// Size of a block, bytes.
const BLOCK_BYTES: u64 = 4096;

fn random(seed: u64) -> Job {
    Job {
        rw: "randwrite",
        block: "4k",
        depth: 16,
        target: FILE.into(),
        size_mib: FILE_MIB,
        ios: Some(RANDOM_IOS),
        seed,
    }
}

fn sequential() -> Job {
    Job {
        rw: "write",
        block: "1m",
        depth: 4,
        target: FILE.into(),
        size_mib: FILE_MIB,
        ios: None,
        seed: 0,
    }
}

fn read(target: &str) -> Job {
    Job {
        rw: "read",
        block: "1m",
        depth: 4,
        target: target.into(),
        size_mib: FILE_MIB,
        ios: None,
        seed: 0,
    }
}
