//! Goal: every case is in the list, or there is no list. Method: small crates, each with one thing in it that is understood or is not.

use std::fs;

use cowbird_listing::{ListError, Source, list};

const SOURCE: Source<'_> = Source {
    name: "played",
    folder: "played/src",
};

/// The list of a crate whose files have these contents.
fn listed_except(files: &[(&str, &str)], except: &[&str]) -> Result<Vec<String>, ListError> {
    let root = tempfile::tempdir().expect("a folder for the test");
    for (name, text) in files {
        let path = root.path().join(SOURCE.folder).join(name);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }
    let text = list(root.path(), &[SOURCE], except)?;
    let lines = text.lines().map(str::trim);
    let paths = lines.filter(|line| line.ends_with(','));
    Ok(paths
        .map(|line| {
            line.trim_start_matches('&')
                .trim_end_matches(',')
                .to_owned()
        })
        .collect())
}

fn listed(files: &[(&str, &str)]) -> Result<Vec<String>, ListError> {
    listed_except(files, &[])
}

/// What is said of a crate of which there is no list.
fn refused(files: &[(&str, &str)]) -> String {
    listed(files).expect_err("there is no list").to_string()
}

const CASES: &str = "pub static CASES: CasesOf = Subject::Volume.cases(&[case(\"a\")]);";

#[test]
fn files_come_by_their_names_and_statics_by_their_places() {
    let two = "pub static B: info::CasesOf = x();\npub static A:\n    CasesOf = y();\nconst OTHER: u32 = 1;";
    let found = listed(&[
        (
            "lib.rs",
            "pub mod z;\npub mod m;\npub mod a;\npub mod none;",
        ),
        ("z.rs", CASES),
        ("a.rs", CASES),
        ("m/mod.rs", "pub mod deep;\nmod help;"),
        ("m/deep.rs", two),
        ("m/help.rs", "fn f(_: &CaseInfo) {}"),
        (
            "none.rs",
            "pub struct CasesOf { cases: &'static [CaseInfo] }\npub const F: fn(&CaseInfo) = f;",
        ),
    ]);
    assert_eq!(
        found.expect("a list"),
        [
            "played::a::CASES",
            "played::m::deep::B",
            "played::m::deep::A",
            "played::z::CASES",
        ]
    );
}

#[test]
fn a_file_that_no_module_declares_is_an_error() {
    let said = refused(&[
        ("lib.rs", "pub mod a;"),
        ("a.rs", ""),
        ("forgotten.rs", CASES),
    ]);
    assert!(
        said.starts_with("played/src/forgotten.rs: no module declares it")
            && said.contains("`pub mod forgotten;`"),
        "{said}"
    );
}

#[test]
fn cases_that_no_list_would_have_are_an_error() {
    for text in [
        "pub static CASES: &[CaseInfo] = &[];",
        "pub static CASES: [CaseInfo; 1] = [a()];",
        "pub static CASES: &[CasesOf] = &[];",
        "static CASES: CasesOf = a();",
        "pub(crate) static CASES: CasesOf = a();",
        "#[cfg(feature = \"x\")] pub static CASES: CasesOf = a();",
        "pub const CASES: CasesOf = a();",
        "pub type CASES = CasesOf;",
        "make! { pub static CASES: CasesOf = a(); }",
        "use super::CasesOf as CASES;",
        "mod inside { pub static CASES: CasesOf = a(); }",
        "#[cfg(feature = \"x\")] pub mod inside { pub static CASES: CasesOf = a(); }",
        "impl A { pub const CASES: CasesOf = a(); }",
        "fn f() { pub static CASES: CasesOf = a(); }",
    ] {
        let said = refused(&[("lib.rs", "pub mod a;"), ("a.rs", text)]);
        assert!(
            said.starts_with("played/src/a.rs: the cases of "),
            "{text}: {said}"
        );
        assert!(
            said.contains("would be in no list: register them"),
            "{said}"
        );
    }
    for lib in ["mod a;", "#[cfg(feature = \"x\")] pub mod a;"] {
        let said = refused(&[("lib.rs", lib), ("a.rs", CASES)]);
        assert!(
            said.starts_with("played/src/a.rs: the cases of `CASES`"),
            "{said}"
        );
    }
    let said = refused(&[("lib.rs", "#[path = \"b.rs\"] pub mod a;"), ("b.rs", CASES)]);
    assert!(said.contains("has a path of its own"), "{said}");
}

#[test]
fn what_is_only_for_tests_registers_nothing() {
    let text = "#[cfg(test)] mod tests { static CASES: &[CaseInfo] = &[]; }";
    assert_eq!(listed(&[("lib.rs", text)]).expect("a list"), [""; 0]);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let said = refused(&[("lib.rs", "pub mod a;"), ("a.rs", "pub const")]);
    assert!(
        said.starts_with("played/src/a.rs cannot be understood"),
        "{said}"
    );
    let said = refused(&[("lib.rs", "pub mod a;")]);
    assert!(said.starts_with("cannot read "), "{said}");
}

#[test]
fn an_exception_is_in_no_list_and_must_be_there() {
    let files = [
        ("lib.rs", "pub mod a;"),
        ("a.rs", "pub static CASE: CaseInfo = a();"),
    ];
    let found = listed_except(&files, &["played::a::CASE"]);
    assert_eq!(found.expect("a list"), [""; 0]);
    let said = listed_except(&files, &["played::a::CASE", "played::b::CASE"]);
    let said = said.expect_err("there is no list").to_string();
    assert!(said.contains("`played::b::CASE`"), "{said}");
}
