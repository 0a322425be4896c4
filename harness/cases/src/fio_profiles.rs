//! fio in several profiles, each in a region of its own of a raw volume: small random writes through both of the
//! kernel's asynchronous interfaces, large sequential ones, and cached ones with reads between and syncs behind them.
//!
//! One region is filled with blocks that describe themselves before the instant, and overwritten after it. There it is
//! known what fio must find on the restored volume, and fio verifies it: each block has its own place and a checksum of
//! the kind of the first pass; that of the second is of another kind, because fio does not look at the seed in a block
//! that it verifies later. Of the other regions fio cannot know what they held at the instant, since it was in the
//! middle of writing to them; the oracle alone judges these.

use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_checks::restored::Restored;
use cowbird_host::program::FIO;
use cowbird_proto::message::{EndSignal, ProgramSpec, ProgramsSpec, WorkloadSpec};
use cowbird_session::guest::{CaseResult, GuestSession, Workload, vacuous};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::info::{CaseInfo, CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{MINOR, SNAPSHOT, snapshot_of};
use crate::subject::{CasesOf, Subject};
use crate::{raw_writers, restored};

/// The case of this file.
pub static CASES: CasesOf = Subject::Applications.cases(&[CaseInfo {
    programs: &[FIO],
    ..case(
        "fio-profiles",
        "fio in five profiles; fio then verifies, on the restored volume, the data that it wrote before the snapshot",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context)),
    )
}]);

/// The origin: all regions.
const ORIGIN_MIB: u32 = 36;

/// Every block of it may be overwritten.
const COW_MIB: u32 = 44;

/// The filesystem of the COW file, with its journal and inode tables.
const COW_HOME_MIB: u32 = 72;

/// The device of the origin, without the folder.
const DEVICE: &str = "vda1";

/// The profiles run for longer than any case; they are ended.
const ENDLESS: [&str; 2] = ["--time_based", "--runtime=600"];

/// Of writes to the same block that are in flight together a disk may do either last, and the witness need not have
/// noted them in that order. Where one pass over a region ends and the next begins, fio would issue such writes.
const ONE_AT_A_TIME: &str = "--serialize_overlap=1";

/// Data written before the instant, and between it and the copy, by all profiles together.
const BYTES_BETWEEN: u64 = 8 << 20;

/// Time for it, and for overwriting the region that is verified.
const WRITE_LIMIT: Duration = Duration::from_secs(90);

/// A profile: its name, its region in MiB, and its arguments.
struct Profile {
    name: &'static str,
    region_mib: (u32, u32),
    arguments: &'static [&'static str],
}

const PROFILES: [Profile; 4] = [
    Profile {
        name: "random-libaio",
        region_mib: (0, 8),
        arguments: &[
            "--ioengine=libaio",
            "--direct=1",
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=16",
            ONE_AT_A_TIME,
        ],
    },
    Profile {
        name: "random-io-uring",
        region_mib: (8, 8),
        arguments: &[
            "--ioengine=io_uring",
            "--direct=1",
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=16",
            ONE_AT_A_TIME,
        ],
    },
    Profile {
        name: "sequential",
        region_mib: (16, 8),
        arguments: &[
            "--ioengine=libaio",
            "--direct=1",
            "--rw=write",
            "--bs=1m",
            "--iodepth=2",
            ONE_AT_A_TIME,
        ],
    },
    Profile {
        name: "mixed-fsync",
        region_mib: (24, 8),
        arguments: &[
            "--ioengine=psync",
            "--rw=randrw",
            "--bsrange=4k-64k",
            "--fsync=8",
        ],
    },
];

/// What not every kernel has, or lets be used.
const MAY_BE_REFUSED: &str = "--ioengine=io_uring";

/// The region whose blocks describe themselves.
const DESCRIBED: Profile = Profile {
    name: "described",
    region_mib: (32, 4),
    arguments: &[
        "--ioengine=libaio",
        "--direct=1",
        "--bs=4k",
        "--iodepth=16",
        ONE_AT_A_TIME,
    ],
};

/// What writes the region once, and later says what it must hold.
const FILL: [&str; 2] = ["--rw=write", "--verify=crc32c"];

/// What overwrites all of it.
const OVERWRITE: [&str; 2] = ["--rw=randwrite", "--verify=md5"];

/// The disks of `fio-profiles`.
fn layout() -> Layout {
    Layout::raw(ORIGIN_MIB * MIB_SECTORS, COW_HOME_MIB)
}

impl Profile {
    fn arguments(&self, origin: &str, seed: u64, more: &[&str]) -> Vec<String> {
        let (start, size) = self.region_mib;
        let own = self.arguments.iter().chain(more).map(ToString::to_string);
        own.chain([
            format!("--name={}", self.name),
            format!("--filename={origin}"),
            format!("--offset={start}m"),
            format!("--size={size}m"),
            format!("--randseed={seed}"),
            "--allow_file_create=0".to_owned(),
        ])
        .collect()
    }
}

/// Plays `fio-profiles`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let fio = FIO.path()?;
    raw_writers::prepare(guest, context).await?;
    let fill = described(context, &[&FILL[..], &["--do_verify=0"]].concat());
    guest.run(&fio, &borrowed(&fill)).await?;
    let usable = usable(guest, context, &fio).await?;
    let profiles = start(guest, context, &fio, &usable, &ENDLESS).await?;
    more(guest, &profiles).await?;

    guest.phase("snapshot");
    let marker = guest
        .setup_snapshot(snapshot_of(context.origin(), COW_MIB))
        .await?;
    guest.phase("overwrite");
    // It verifies what it wrote, so that the origin itself is on trial as well.
    let over = start(guest, context, &fio, &[&DESCRIBED], &OVERWRITE).await?;
    guest
        .wait_until(&over, "overwritten", WRITE_LIMIT, |state| state.finished)
        .await?;
    more(guest, &profiles).await?;

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.stop_workload(&over).await?;
    guest.stop_workload(&profiles).await?;
    if guest.active_snapshot(MINOR).await?.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten"));
    }

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    restored::restore(guest, context).await?;
    let faults = verify(guest, context, &fio).await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).with(OfImage::Restored(Restored {
            untouched: true,
            filesystem: None,
            faults: faults.into_iter().collect(),
        })),
    ))
}

/// The profiles that this kernel lets fio use; a note for each that is left out.
async fn usable(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    fio: &str,
) -> CaseResult<Vec<&'static Profile>> {
    let mut usable = Vec::new();
    for profile in &PROFILES {
        if profile.arguments.contains(&MAY_BE_REFUSED) {
            let one = profile.arguments(context.origin(), context.seed, &["--number_ios=1"]);
            let exited = guest.run_to_any_end(fio, &borrowed(&one)).await?;
            if exited.code != Some(0) {
                let said = exited.stderr.trim().replace('\n', " / ");
                guest.note(format!("left out: {}: {said}", profile.name));
                continue;
            }
        }
        usable.push(profile);
    }
    Ok(usable)
}

/// fio looks whether the region is as it filled it.
async fn verify(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    fio: &str,
) -> CaseResult<Option<String>> {
    let arguments = described(context, &[&FILL[..], &["--verify_only"]].concat());
    let exited = guest.run_to_any_end(fio, &borrowed(&arguments)).await?;
    if exited.code == Some(0) {
        return Ok(None);
    }
    let first = exited.stderr.trim().lines().next();
    let first = first.unwrap_or("failed without a word").to_owned();
    Ok(Some(format!(
        "fio does not find what it wrote before the snapshot: {first}"
    )))
}

fn described(context: &CaseContext, more: &[&str]) -> Vec<String> {
    DESCRIBED.arguments(context.origin(), context.seed, more)
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

async fn start(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    fio: &str,
    profiles: &[&Profile],
    arguments: &[&str],
) -> CaseResult<Workload> {
    let program = |profile: &&Profile| ProgramSpec {
        program: fio.to_owned(),
        args: profile.arguments(context.origin(), context.seed, arguments),
        input: None,
        as_owner_of: None,
        acknowledges: String::new(),
        ends_by: EndSignal::Terminate,
    };
    let spec = WorkloadSpec::Programs(ProgramsSpec {
        programs: profiles.iter().map(program).collect(),
        device: DEVICE.to_owned(),
    });
    guest.start_workload(spec).await
}

/// Waits until the device was written to some more.
async fn more(guest: &mut GuestSession<'_, '_>, profiles: &Workload) -> CaseResult<()> {
    let mut written = guest.workload(profiles).await?.bytes_written;
    guest
        .wait_for_more(profiles, &mut written, BYTES_BETWEEN, WRITE_LIMIT)
        .await
}
