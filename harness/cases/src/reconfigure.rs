//! A snapshot whose memory for preserved blocks is bounded anew while writers fill it: the guest gets
//! the memory back, no more blocks than the bound are held, and the image stays right.

use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_proto::message::{RawWritersSpec, Reply, Request, WorkloadSpec};
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SnapshotSpec, vacuous};
use cowbird_vm::layout::Layout;

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{MINOR, SNAPSHOT};
use crate::raw_writers;
use crate::subject::{CasesOf, Subject};

/// The case of this file.
pub static CASES: CasesOf = Subject::Operation.cases(&[case(
    "reconfigure",
    "a snapshot whose memory for preserved blocks is bounded anew under writers",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)]);

/// Bounds one after the other, MiB.
const FIRST_MIB: u32 = 256;
const SMALL_MIB: u32 = 1;
const LAST_MIB: u32 = 8;

/// More than `total_cache_mb` lets all snapshots have.
const TOO_MUCH_MIB: u32 = 4096;

/// Of what a smaller bound gives back so much must be seen, MiB. The writers use some meanwhile, and
/// each CPU keeps some free pages for itself (32 MiB on 7.3).
const SEEN_MIB: u64 = 160;

/// Blocks of 4096 bytes in one MiB.
const MIB_BLOCKS: u64 = 256;

/// Written before the instant, and after it.
const BYTES: u64 = 12 << 20;

const LIMIT: Duration = Duration::from_secs(60);

/// Plays `reconfigure`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let writers = guest
        .start_workload(WorkloadSpec::RawWriters(RawWritersSpec {
            device: context.origin().into(),
            seed: context.seed,
            pairs: 2,
            discard_every: 0,
            rest_at_bytes: 0,
        }))
        .await?;
    let mut written = 0;
    guest
        .wait_for_more(&writers, &mut written, BYTES, LIMIT)
        .await?;

    guest.phase("snapshot");
    let marker = guest
        .setup_snapshot(SnapshotSpec {
            cache_mib: FIRST_MIB,
            ..raw_writers::spec(context.origin())
        })
        .await?;
    let free_before = free_mib(guest).await?;
    guest.reconfigure(MINOR, SMALL_MIB).await?;
    let free_after = free_mib(guest).await?;
    if free_after < free_before + SEEN_MIB {
        return Err(CaseError::Failed(format!(
            "the bound is {MIB_BLOCKS} blocks and was {FIRST_MIB} MiB, and {free_before} MiB of \
             memory became {free_after} MiB"
        )));
    }

    guest.phase("overwrite");
    guest.epoch_passed(&writers, None).await?;
    guest
        .wait_for_more(&writers, &mut written, BYTES, LIMIT)
        .await?;
    let end = guest.stop_workload(&writers).await?;
    // Each write of this copy alone wants as many blocks as the bound lets in.
    guest.copy_device(context.image(), context.origin()).await?;
    check_bound(guest, SMALL_MIB).await?;
    guest
        .expect_reconfigure_refusal(MINOR, TOO_MUCH_MIB, "exceed the limit")
        .await?;
    guest.reconfigure(MINOR, LAST_MIB).await?;

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    check_bound(guest, LAST_MIB).await?;
    if guest.active_snapshot(MINOR).await?.preserved_blocks == 0 {
        return Err(vacuous("nothing was preserved"));
    }

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).differing_reads(end.differing_reads),
    ))
}

/// The disks of `reconfigure`.
fn layout() -> Layout {
    raw_writers::layout()
}

async fn check_bound(guest: &mut GuestSession<'_, '_>, mib: u32) -> CaseResult<()> {
    let device = guest.active_snapshot(MINOR).await?;
    let (bound, most) = (u64::from(mib) * MIB_BLOCKS, device.memory_peak_blocks);
    guest.note(format!("bound of {bound} blocks: {most} were in memory"));
    if mib == SMALL_MIB && most < bound {
        return Err(vacuous("the bound was not reached"));
    }
    if device.max_cache != bound * 4096 || most > bound {
        return Err(CaseError::Failed(format!(
            "the bound is {bound} blocks, the module says {} bytes, and {most} blocks were in memory",
            device.max_cache
        )));
    }
    Ok(())
}

/// Memory that the guest's kernel has not given out.
async fn free_mib(guest: &mut GuestSession<'_, '_>) -> CaseResult<u64> {
    let path = "/proc/meminfo".to_owned();
    let reply = guest.prepare(Request::ReadText { path }).await?;
    let Reply::Text(text) = reply else {
        return Err(vacuous("the guest does not tell its memory"));
    };
    let free = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    free.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib / 1024)
        .ok_or_else(|| vacuous("the guest does not tell its memory"))
}
