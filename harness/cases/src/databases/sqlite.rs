//! SQLite, in both of the ways in which it keeps its promises: a log that is written ahead, and a journal of old
//! pages that is deleted at the commit.

use cowbird_checks::claim::Evidence;
use cowbird_host::disk::Filesystem;
use cowbird_host::program::HostProgram;
use cowbird_proto::message::Request;
use cowbird_session::guest::{CaseResult, GuestSession, Workload};

use crate::info::{CaseInfo, CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::restored;
use crate::subject::{CasesOf, Subject};

use super::{CaseContext, Clients, MOUNT, SCRIPTS, bank, judged, look, tear_down};

/// The case of this file.
pub static CASES: CasesOf = Subject::Applications.cases(&[CaseInfo {
    programs: &[SQLITE],
    ..case(
        "sqlite",
        "SQLite with both of its journals under load; the restored databases are sound and of the instant",
        CaseTier::Daily,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(act(guest, context)),
    )
}]);

/// The shell of SQLite, which has all of SQLite in it.
pub const SQLITE: HostProgram = HostProgram {
    program: "sqlite3",
    package: "sqlite3",
};

/// The databases: name, and how the journal is kept.
const DATABASES: [(&str, &str); 2] = [("ahead", "WAL"), ("rollback", "DELETE")];

/// What a database without faults answers to `PRAGMA integrity_check`.
const SOUND: &str = "ok";

/// Errors of a database that are named.
const NAMED: usize = 3;

fn file_of(database: &str) -> String {
    format!("{MOUNT}/{database}.db")
}

/// Plays `sqlite`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let sqlite = SQLITE.path()?;
    super::set_up(guest, context).await?;
    let mut databases = Vec::new();
    for (database, journal) in DATABASES {
        make(guest, &sqlite, database, journal).await?;
        databases.push(start(guest, context, &sqlite, database).await?);
    }
    let (evidence, possible) = super::take_snapshot(guest, context, &databases).await?;
    super::copy(guest, context, &databases).await?;
    tear_down(guest).await?;

    restored::restore(guest, context).await?;
    if let Err(fault) = restored::mount(guest, context, MOUNT, Filesystem::Ext4).await? {
        return Ok(judged(evidence, vec![fault], false));
    }
    let mut faults = Vec::new();
    for ((database, _), possible) in DATABASES.iter().zip(possible) {
        let file = file_of(database);
        let sound = look(guest, &sqlite, &[&file, "PRAGMA integrity_check"]).await?;
        let mut found = match sound {
            Err(fault) => vec![fault],
            Ok(said) if said.trim() != SOUND => {
                let first: Vec<&str> = said.lines().take(NAMED).collect();
                vec![format!("integrity_check: {}", first.join(" / "))]
            }
            Ok(_) => Vec::new(),
        };
        match look(guest, &sqlite, &[&file, &bank::question()]).await? {
            Ok(answers) => found.extend(bank::faults(&answers, &possible)),
            Err(fault) => found.push(fault),
        }
        faults.extend(
            found
                .into_iter()
                .map(|fault| format!("{database}.db: {fault}")),
        );
    }
    guest.unmount(MOUNT).await?;
    Ok(judged(evidence, faults, true))
}

async fn make(
    guest: &mut GuestSession<'_, '_>,
    sqlite: &str,
    database: &str,
    journal: &str,
) -> CaseResult<()> {
    let path = format!("{SCRIPTS}/schema-{database}.sql");
    let text = format!("PRAGMA journal_mode={journal};\n{}", bank::schema());
    let read = format!(".read {path}");
    guest.prepare(Request::WriteText { path, text }).await?;
    let file = file_of(database);
    guest
        .run(sqlite, &["-batch", "-bail", &file, &read])
        .await?;
    Ok(())
}

async fn start(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    sqlite: &str,
    database: &str,
) -> CaseResult<Workload> {
    let file = file_of(database);
    let clients = Clients {
        program: sqlite,
        arguments: &["-batch", "-bail", &file],
        // Even the first pragma may find the database locked. Without FULL a log that is written ahead is not synced
        // at each commit.
        first: ".timeout 30000\nPRAGMA synchronous=FULL;\n",
        begin: "BEGIN IMMEDIATE",
    };
    clients.start(guest, context.seed, database).await
}
