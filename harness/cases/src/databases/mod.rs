//! Databases under load. The image of their volume is judged block by block as any other; then it is restored, the
//! database is opened from it as after a power cut, and is asked by its own tools whether it is sound and by a
//! [bank] whether it is that of the instant.
//!
//! Each test of the restored database is taken by itself: the oracle sees a wrong block that a database never looks
//! at, and a database sees an image of no instant whose every block was legal.

mod bank;
pub mod postgresql;
pub mod sqlite;

use std::ops::RangeInclusive;
use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_checks::restored::Restored;
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{EndSignal, ProgramSpec, ProgramsSpec, Request, WorkloadSpec};
use cowbird_session::guest::{CaseResult, GuestSession, Workload, vacuous};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::names::{COW_MOUNT, MINOR, SNAPSHOT, snapshot_of};

/// Size of the origin.
const ORIGIN_MIB: u32 = 64;

/// The COW file holds all that is overwritten while the image is copied; databases write the same few blocks again.
const COW_MIB: u32 = 48;

/// The filesystem of the COW file, with its journal and inode tables.
const COW_HOME_MIB: u32 = 72;

/// The origin is an ext4 and mounted here.
const MOUNT: &str = "/mnt/origin";

/// Its device, without the folder.
const DEVICE: &str = "vda1";

/// Where the clients' scripts are.
const SCRIPTS: &str = "/tmp/scripts";

/// Transfers of one client at most; its script has to fit a message.
const TRANSFERS: u64 = 2500;

/// Clients of one database.
const CLIENTS: u64 = 2;

/// Transfers before the snapshot, and at least between it and the copy.
const TRANSFERS_BETWEEN: u64 = 60;

/// Time for them.
const TRANSFER_LIMIT: Duration = Duration::from_secs(90);

/// The disks of `sqlite`.
pub fn layout() -> Layout {
    Layout {
        filesystem: Some(Filesystem::Ext4),
        ..Layout::raw(ORIGIN_MIB * MIB_SECTORS, COW_HOME_MIB)
    }
}

/// How the clients of a database are started.
struct Clients<'a> {
    program: &'a str,
    /// Its arguments; it reads its script from its standard input.
    arguments: &'a [&'a str],
    /// What comes before the transfers.
    first: &'a str,
    /// How a transaction begins that will write.
    begin: &'a str,
}

impl Clients<'_> {
    /// Starts the clients; `database` tells their scripts from those of others.
    async fn start(
        &self,
        guest: &mut GuestSession<'_, '_>,
        seed: u64,
        database: &str,
    ) -> CaseResult<Workload> {
        let mut programs = Vec::new();
        for client in 1..=CLIENTS {
            let path = format!("{SCRIPTS}/{database}-{client}.sql");
            let transfers = bank::transfers(seed, client, TRANSFERS, self.begin);
            let text = format!("{}{transfers}", self.first);
            let (script, path) = (path.clone(), path);
            guest.prepare(Request::WriteText { path, text }).await?;
            programs.push(ProgramSpec {
                program: self.program.to_owned(),
                args: self.arguments.iter().map(ToString::to_string).collect(),
                input: Some(script),
                as_owner_of: None,
                acknowledges: bank::ACKNOWLEDGED.to_owned(),
                ends_by: EndSignal::Terminate,
            });
        }
        let device = DEVICE.to_owned();
        let spec = WorkloadSpec::Programs(ProgramsSpec { programs, device });
        guest.start_workload(spec).await
    }
}

async fn set_up(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<()> {
    guest.phase("setup");
    guest.mount(context.origin(), MOUNT, "").await?;
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    guest.insert_module().await
}

/// Waits until each database has acknowledged some more transfers.
async fn more(guest: &mut GuestSession<'_, '_>, databases: &[Workload]) -> CaseResult<()> {
    for clients in databases {
        let goal = guest.workload(clients).await?.operations + TRANSFERS_BETWEEN;
        guest
            .wait_until(clients, "some more transfers", TRANSFER_LIMIT, |state| {
                state.operations >= goal
            })
            .await?;
    }
    Ok(())
}

/// Takes a snapshot under the clients of some databases. Also how many transfers each can have had at the instant.
async fn take_snapshot(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    databases: &[Workload],
) -> CaseResult<(ImageClaim, Vec<RangeInclusive<u64>>)> {
    more(guest, databases).await?;
    guest.phase("snapshot");
    let mut durable = Vec::new();
    for clients in databases {
        durable.push(guest.workload(clients).await?.operations);
    }
    let marker = guest
        .setup_snapshot(snapshot_of(context.origin(), COW_MIB))
        .await?;
    let mut possible = Vec::new();
    for (clients, durable) in databases.iter().zip(durable) {
        // Each client may have one that is durable and not acknowledged yet.
        let begun = guest.workload(clients).await?.operations + CLIENTS;
        guest.note(format!("{durable} to {begun} transfers at the instant"));
        possible.push(durable..=begun);
    }
    guest.phase("overwrite");
    more(guest, databases).await?;
    let evidence = ImageClaim::new(marker, context.origin_range());
    Ok((evidence, possible))
}

/// Copies the snapshot while the clients go on, and ends them.
async fn copy(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    databases: &[Workload],
) -> CaseResult<()> {
    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    for clients in databases {
        if guest.workload(clients).await?.finished {
            return Err(vacuous("the clients had nothing more to do"));
        }
        guest.stop_workload(clients).await?;
    }
    if guest.active_snapshot(MINOR).await?.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten"));
    }
    Ok(())
}

async fn tear_down(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await
}

/// The evidence of a case that found these faults on the restored volume; `unmounted`: that it could be mounted and is
/// not any more.
fn judged(evidence: ImageClaim, faults: Vec<String>, unmounted: bool) -> Evidence {
    Evidence::from(
        evidence
            .with(OfImage::SoundExt4)
            .with(OfImage::Restored(Restored {
                untouched: false,
                filesystem: unmounted.then_some(Filesystem::Ext4),
                faults,
            })),
    )
}

/// Lets a program look at a restored database. The fault if it finds one, else what it printed.
async fn look(
    guest: &mut GuestSession<'_, '_>,
    program: &str,
    arguments: &[&str],
) -> CaseResult<Result<String, String>> {
    let exited = guest.run_to_any_end(program, arguments).await?;
    if exited.code == Some(0) {
        return Ok(Ok(exited.stdout));
    }
    let name = program.rsplit('/').next().unwrap_or(program);
    let said = format!("{}{}", exited.stdout, exited.stderr);
    let first = said
        .trim()
        .lines()
        .next()
        .unwrap_or("failed without a word");
    Ok(Err(format!("{name}: {first}")))
}
