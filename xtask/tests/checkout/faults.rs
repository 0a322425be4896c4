//! Cases reach their guests and QEMU through the guest session alone, which looks at the faults that they declare.

use std::fs;

use crate::repo::{files_of_git, root};

/// The folders of the crates that play cases.
const PLAYED_IN: [&str; 2] = ["harness/cases/src/", "harness/adversity/src/"];

/// How a case gets at its machine, and what it may do with it.
const MACHINE: &str = ".vm()";
const MAY: &str = ".pause(";

/// Other ways to it.
const NEVER: [&str; 2] = [".vm.", ".qmp()"];

/// What passes the guest session by in a text.
fn passes_by(text: &str) -> Option<String> {
    let never = NEVER.iter().find(|way| text.contains(**way));
    let machine = text.match_indices(MACHINE).find(|(at, _)| {
        let rest = text[at + MACHINE.len()..].trim_start();
        !rest.starts_with(MAY)
    });
    never
        .map(|way| (*way).to_owned())
        .or_else(|| machine.map(|_| MACHINE.to_owned()))
}

#[test]
fn ways_past_the_session_are_seen() {
    assert_eq!(passes_by("guest.vm().pause(POLL).await?;"), None);
    assert_eq!(passes_by("guest\n    .vm()\n    .pause(POLL)"), None);
    for text in [
        "guest.vm().call(request, limit).await?;",
        "guest.vm.stop().await;",
        "guest.vm().qmp().execute(\"stop\", json!({})).await?;",
    ] {
        assert!(passes_by(text).is_some(), "{text}");
    }
}

/// Goal: the table of faults lacks none that the guest session guards. Method: no file of a case names a way to its guest or to QEMU
/// that leads past the guest session.
#[test]
fn cases_make_faults_through_the_session() {
    let mut seen = 0;
    for folder in PLAYED_IN {
        let files = files_of_git(&root(), &format!("{folder}*.rs")).expect("git lists them");
        for file in files.iter().filter(|file| root().join(file).exists()) {
            let text = fs::read_to_string(root().join(file)).expect("it can be read");
            seen += 1;
            if let Some(way) = passes_by(&text) {
                panic!(
                    "{file} has `{way}`: a fault that is made so needs no declaration; give `GuestSession` a method for it"
                );
            }
        }
    }
    assert!(seen > 50, "{seen} files were looked at");
}
