//! Crates that register cases are those whose cases are listed.

use std::collections::BTreeSet;
use std::fs;

use syn::visit::{self, Visit};

use crate::repo::{files_of_git, root};

/// Where the crates of cases are named.
const LIST: &str = "harness/build.rs";

/// The type of what registers cases.
const REGISTRATION: &str = "CasesOf";

/// What a source has of interest here.
#[derive(Default)]
struct Seen {
    /// The values of fields called `folder`.
    folders: BTreeSet<String>,
    /// Whether it registers cases.
    registers: bool,
}

impl Seen {
    fn of(text: &str) -> Self {
        let mut seen = Self::default();
        seen.visit_file(&syn::parse_file(text).expect("rustc reads it, too"));
        seen
    }
}

impl<'ast> Visit<'ast> for Seen {
    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        if let (syn::Member::Named(name), syn::Expr::Lit(value)) = (&field.member, &field.expr)
            && let (true, syn::Lit::Str(text)) = (name == "folder", &value.lit)
        {
            self.folders.insert(text.value());
        }
        visit::visit_field_value(self, field);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        if let syn::Type::Path(of_type) = &*item.ty {
            let last = of_type.path.segments.last();
            self.registers |= last.is_some_and(|segment| segment.ident == REGISTRATION);
        }
        visit::visit_item_static(self, item);
    }
}

/// Goal: no case is in no list because its crate is not. Method: the folders in the build script of the harness are those of the
/// sources that have a static of the type of registrations, and no others. Not seen: statics that a macro makes.
#[test]
fn crates_of_cases_are_listed() {
    let read = |file: &str| fs::read_to_string(root().join(file)).expect("it can be read");
    let listed = Seen::of(&read(LIST)).folders;
    let mut registering = BTreeSet::new();
    for file in files_of_git(&root(), "*.rs").expect("git lists them") {
        let Some((before, _)) = file.split_once("/src/") else {
            continue;
        };
        if root().join(&file).exists() && Seen::of(&read(&file)).registers {
            registering.insert(format!("{before}/src"));
        }
    }
    assert!(!listed.is_empty(), "{LIST} names folders");
    assert_eq!(registering, listed, "left: those with cases; right: {LIST}");
}

#[test]
fn registrations_are_seen() {
    for (text, registers) in [
        ("pub static CASES: CasesOf = x();", true),
        ("mod a { static CASES: subject::CasesOf = x(); }", true),
        ("static ALL: &[&CasesOf] = &[];", false),
        ("fn f(_: CasesOf) {}", false),
    ] {
        assert_eq!(Seen::of(text).registers, registers, "{text}");
    }
    let list = "const A: [S; 1] = [S { name: \"x\", folder: \"y/src\" }];";
    assert_eq!(Seen::of(list).folders, BTreeSet::from(["y/src".to_owned()]));
}
