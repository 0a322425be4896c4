//! One version for all: the workspace's, the module's, and the one on top of the changelog.

use std::fs;

use crate::repo::root;

/// The first text between two marks.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after)?.0.into()
}

/// Goal: a release that says its version in three places says the same one.
/// Method: the newest section of the changelog and the module's header, against the version that cargo gives this crate.
#[test]
fn one_version_for_all() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let changelog = read("CHANGELOG.md");
    let header = read("kmod/include/uapi/cowbird.h");
    let ours = Some(env!("CARGO_PKG_VERSION"));
    assert_eq!(between(&changelog, "\n## [", "]"), ours, "CHANGELOG.md");
    let module = between(&header, "#define COWBIRD_VERSION \"", "\"");
    assert_eq!(module, ours, "COWBIRD_VERSION");
}

/// Goal: whoever opens an issue or a change is asked the same at each forge.
/// Method: the templates of both, without the head that only one of them reads.
#[test]
fn forges_ask_the_same() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    for (github, gitlab) in [
        ("ISSUE_TEMPLATE/bug.md", "issue_templates/bug.md"),
        ("ISSUE_TEMPLATE/proposal.md", "issue_templates/proposal.md"),
        (
            "pull_request_template.md",
            "merge_request_templates/Default.md",
        ),
    ] {
        let there = read(&format!(".github/{github}"));
        let body = match there.strip_prefix("---\n") {
            Some(rest) => rest.split_once("---\n").unwrap().1.trim_start(),
            None => &there,
        };
        assert_eq!(body, read(&format!(".gitlab/{gitlab}")), "{github}");
    }
}
