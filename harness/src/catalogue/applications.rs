//! Programs that keep their own data, and judge what is restored.

use cowbird_host::program::FIO;

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
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
];
