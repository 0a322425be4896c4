//! The page of faults: what is made to go wrong, how, and by which cases.

use anyhow::{Result, bail};
use cowbird_cases::info::CaseInfo;
use cowbird_harness::catalogue::{cases, recorded_case, self_test_cases};
use cowbird_session::fault::{Fault, Guard};

use super::page::{code, head, table};

pub(super) fn page() -> Result<String> {
    let all: Vec<&CaseInfo> = cases()
        .iter()
        .chain([recorded_case()])
        .chain(self_test_cases())
        .collect();
    for case in &all {
        if let Some(fault) = case.faults.iter().find(|it| !Fault::ALL.contains(it)) {
            bail!("{} makes {fault:?}, which `Fault::ALL` lacks", case.name);
        }
    }
    let mut text = head(
        "Faults",
        "What cases make go wrong around the module. A case says so in its registration (`.making(&[Fault::...])`), and a kind \
         of fault is a variant of `Fault` in `harness/session/src/fault.rs`. Loads, settings of queues, small machines and wrong \
         commands of an operator are none: nothing fails by them. What is made of the module itself is in \
         [mutants.md](mutants.md).",
    );
    for (title, what, guard) in SECTIONS {
        text += &format!("\n## {title}\n\n{what}\n");
        let of_guard = Fault::ALL.iter().filter(|it| it.about().guard == guard);
        let rows = of_guard.map(|fault| {
            let about = fault.about();
            [
                about.name.to_owned(),
                about.what.to_owned(),
                about.made.to_owned(),
                makers(&all, *fault),
            ]
        });
        text += &table(COLUMNS, rows);
    }
    Ok(text)
}

const COLUMNS: [&str; 4] = ["fault", "what happens", "how it is made", "cases"];

const SECTIONS: [(&str, &str, Guard); 2] = [
    (
        "Guarded",
        "The guest session makes these, or sees them in what the guest is asked for, and refuses each one that the case does not \
         declare: the cell ends as `infrastructure`, and names the case and the fault. A fault that is declared and not made in a run \
         is in the notes of the cell.",
        Guard::GuestSession,
    ),
    (
        "Said by the case",
        "These are made by means that serve other ends as well, such as a write to a device. The case says so with \
         `GuestSession::makes` before, which refuses what is not declared. Nothing checks that the case says so. A fault that is declared \
         and not said is in the notes of the cell.",
        Guard::Case,
    ),
];

/// The cases that make it.
fn makers(all: &[&CaseInfo], fault: Fault) -> String {
    let makers = all.iter().filter(|case| case.faults.contains(&fault));
    let names: Vec<String> = makers.map(|case| code(case.name)).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(" "),
    }
}
