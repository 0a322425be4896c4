//! Files that sources compile in from outside of their crate, of which no manifest tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::floors::{attributes, is_for_tests};
use crate::repo::{files_of_git, root};

/// Macros that compile in a file.
const INCLUDING: [&str; 3] = ["include", "include_bytes", "include_str"];

/// The paths in a source that are given to these macros as they stand, outside of tests.
#[derive(Default)]
struct Included {
    paths: Vec<String>,
}

impl Included {
    fn of(text: &str) -> Self {
        let mut included = Self::default();
        included.visit_file(&syn::parse_file(text).expect("rustc reads it, too"));
        included
    }

    /// What a macro of this name is given.
    fn call(&mut self, name: &syn::Ident, arguments: &TokenStream) {
        if INCLUDING.iter().any(|including| name == including)
            && let Ok(path) = syn::parse2::<syn::LitStr>(arguments.clone())
        {
            self.paths.push(path.value());
        }
    }

    /// Such macros in the arguments of others.
    fn tokens(&mut self, tokens: &TokenStream) {
        let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
        for three in tokens.windows(3) {
            if let [
                TokenTree::Ident(name),
                TokenTree::Punct(_),
                TokenTree::Group(group),
            ] = three
            {
                self.call(name, &group.stream());
            }
        }
        for token in tokens {
            if let TokenTree::Group(group) = token {
                self.tokens(&group.stream());
            }
        }
    }
}

impl<'ast> Visit<'ast> for Included {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if let Some(last) = call.path.segments.last() {
            self.call(&last.ident, &call.tokens);
        }
        self.tokens(&call.tokens);
    }
}

/// A path without `.` and `..`; none, if it leads out of the checkout.
fn resolved(path: &Path) -> Option<PathBuf> {
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if whole.pop() => {}
            Component::Normal(name) => whole.push(name),
            _ => return None,
        }
    }
    Some(whole)
}

/// Whose a file is: the innermost crate with it, or else a folder at the top.
fn owner(crates: &[String], file: &Path) -> Option<String> {
    let around = crates.iter().filter(|folder| file.starts_with(folder));
    let innermost = around.max_by_key(|folder| folder.len()).cloned();
    innermost.or_else(|| Some(file.iter().next()?.to_string_lossy().into_owned()))
}

/// Whose files a source compiles in, besides those of its own crate.
fn others(crates: &[String], source: &str, text: &str) -> BTreeSet<String> {
    let own = owner(crates, Path::new(source));
    let beside = Path::new(source).parent().unwrap_or(Path::new(""));
    let included = Included::of(text).paths.into_iter();
    let files = included.filter_map(|path| resolved(&beside.join(path)));
    files
        .filter_map(|file| owner(crates, &file))
        .filter(|other| Some(other) != own.as_ref())
        .collect()
}

/// The folders and crates whose files each of these crates compiles in, in `src` and by its build script. Not seen: paths that are
/// put together.
pub fn from_outside(crates: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::<String, BTreeSet<String>>::new();
    for source in files_of_git(&root(), "*.rs").expect("git lists them") {
        let Some(own) = owner(crates, Path::new(&source)) else {
            continue;
        };
        let inside = source.strip_prefix(&own).unwrap_or_default();
        let path = root().join(&source);
        if (inside.starts_with("/src/") || inside == "/build.rs") && path.exists() {
            let text = fs::read_to_string(path).expect("it can be read");
            let others = others(crates, &source, &text);
            all.entry(own).or_default().extend(others);
        }
    }
    all
}

/// Goal: what is compiled in counts for the crate or the folder that has it, in macros, too; what is of the same crate, or for
/// tests, does not.
#[test]
fn files_from_outside_are_seen() {
    let crates = ["a", "a/b", "c"].map(str::to_owned);
    let seen = |text: &str| -> Vec<String> {
        let others = others(&crates, "a/b/src/x.rs", text);
        others.into_iter().collect()
    };
    for (path, other) in [
        ("../../../dist/x", "dist"),
        ("../../src/lib.rs", "a"),
        ("../../../c/tests/y", "c"),
        ("./../../y", "a"),
    ] {
        for code in [
            format!("const X: &str = include_str!(\"{path}\");"),
            format!("fn f() {{ println!(\"{{}}\", [std::include_bytes!(\"{path}\")].len()) }}"),
            format!("include!(\"{path}\");"),
        ] {
            assert_eq!(seen(&code), [other], "{code}");
        }
    }
    for code in [
        "const X: &str = include_str!(\"../y\");",
        "const X: &str = include_str!(concat!(\"../../../c/\", \"y\"));",
        "#[cfg(test)] mod tests { const X: &str = include_str!(\"../../../c/y\"); }",
        "const X: &str = other!(\"../../../c/y\");",
    ] {
        assert!(seen(code).is_empty(), "{code}");
    }
}
