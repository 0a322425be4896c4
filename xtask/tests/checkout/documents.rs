//! What the documents point to: links, headings within documents, and names of files in backticks.

use std::collections::HashSet;
use std::path::{Component, Path};

use glob::Pattern;

use crate::repo::{files_of_git, root};

/// Names in documents that are no files of this repository, and are not meant to be.
const NOT_OURS: [(&str, &str); 3] = [
    (
        "harness/cases/src/my_case.rs",
        "the file that `cargo xtask new case my-case` would write",
    ),
    ("linux/types.h", "a header of the kernel"),
    ("raid5.c", "a source file of the kernel"),
];

/// Endings of files that a document names only if the repository has them. Others (`results.json`, `report.txt`) are written by
/// programs, and `lvm.conf` is somebody else's.
const SOURCES: [&str; 4] = [".rs", ".c", ".h", ".sh"];

/// The files that git knows, and the folders that these are in.
struct Tree {
    files: Vec<String>,
    paths: HashSet<String>,
    top: HashSet<String>,
}

impl Tree {
    fn of(files: Vec<String>) -> Self {
        let mut paths = HashSet::new();
        let mut top = HashSet::new();
        for file in &files {
            for path in Path::new(file).ancestors() {
                paths.insert(path.to_string_lossy().into_owned());
            }
            if let Some((folder, _)) = file.split_once('/') {
                top.insert(folder.to_owned());
            }
        }
        Self { files, paths, top }
    }

    fn has(&self, path: &str) -> bool {
        self.paths.contains(path.trim_end_matches('/'))
    }

    /// What is wrong with a name in backticks in a document, if it claims to be one of the repository's.
    fn complaint(&self, document: &str, name: &str) -> Option<String> {
        if NOT_OURS.iter().any(|(known, _)| *known == name) || !is_file_name(name) {
            return None;
        }
        let first = name.split('/').next().unwrap_or_default();
        let is_path = name.contains('/') && (self.top.contains(first) || first.starts_with('.'));
        let here = beside(document, name);
        if is_path {
            let pattern = Pattern::new(name).ok().filter(|_| name.contains('*'));
            let matched = pattern.is_some_and(|it| self.files.iter().any(|file| it.matches(file)));
            let found = matched || self.has(name) || here.is_some_and(|path| self.has(&path));
            return (!found).then(|| format!("`{name}` does not exist"));
        }
        if !SOURCES.iter().any(|ending| name.ends_with(ending)) {
            return None;
        }
        let found = self
            .files
            .iter()
            .any(|file| file == name || file.ends_with(&format!("/{name}")));
        (!found).then(|| format!("no file of the repository is called `{name}`"))
    }
}

/// Whether a text in backticks can be the name of a file: neither a command, nor an absolute path, nor an expression.
fn is_file_name(text: &str) -> bool {
    !text.starts_with(['/', '-'])
        && !text.contains("//")
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-*/".contains(c))
}

/// A path relative to a document, as one from the root; `None` if it leads out of the repository.
fn beside(document: &str, path: &str) -> Option<String> {
    let mut whole = Path::new(document).parent()?.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if whole.pop() => {}
            Component::Normal(name) => whole.push(name),
            _ => return None,
        }
    }
    Some(whole.to_string_lossy().into_owned())
}

/// The text outside of fenced blocks, in which backticks and brackets are what the reader types.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose += line;
            prose.push('\n');
        }
    }
    prose
}

/// The texts in backticks; none of them goes over the end of a line.
fn quoted(prose: &str) -> impl Iterator<Item = &str> {
    prose
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The targets of links that lead into the repository.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    prose
        .split("](")
        .skip(1)
        .filter_map(|at| at.split(')').next())
        .filter(|target| !target.contains("://"))
}

/// What forges call a heading in an address.
fn anchor(heading: &str) -> String {
    heading
        .trim_matches(['#', ' '])
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_')
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// What is wrong with a link of a document. `read` gives the text of a file of the repository.
fn dead_link(
    tree: &Tree,
    document: &str,
    target: &str,
    read: impl Fn(&str) -> String,
) -> Option<String> {
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => Some(document.to_owned()),
        _ => beside(document, path),
    };
    let Some(file) = file.filter(|file| tree.has(file)) else {
        return Some(format!("the link {target} leads nowhere"));
    };
    let missing = !heading.is_empty()
        && !prose(&read(&file))
            .lines()
            .any(|line| line.starts_with('#') && anchor(line) == heading);
    missing.then(|| format!("the link {target} leads to no heading of {file}"))
}

/// Goal: whoever follows a link of the documents, or looks for a file that they name, arrives.
/// Method: every document that git knows; of each, the links into the repository and the names of files in backticks.
#[test]
fn documents_point_to_what_exists() {
    let tree = Tree::of(files_of_git(&root(), "*").unwrap());
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let documents = tree.files.iter().filter(|file| file.ends_with(".md"));
    let (mut looked_at, mut complaints) = (0, Vec::new());
    for document in documents {
        let text = prose(&read(document));
        for target in links(&text) {
            looked_at += 1;
            let dead = dead_link(&tree, document, target, read);
            complaints.extend(dead.map(|what| format!("{document}: {what}")));
        }
        for name in quoted(&text) {
            looked_at += 1;
            let wrong = tree.complaint(document, name);
            complaints.extend(wrong.map(|what| format!("{document}: {what}")));
        }
    }
    assert!(looked_at > 1000, "{looked_at}: git lists too few documents");
    assert!(
        complaints.is_empty(),
        "a file counts when git knows it (`git add`):\n{}",
        complaints.join("\n")
    );
}

/// A text with one space between its words, whatever lines it has in a source, a comment or a string that goes over lines.
fn in_one_line(text: &str) -> String {
    let words = text.split_whitespace();
    let words = words.filter(|word| !["///", "//!", "//", "*", "\\"].contains(word));
    words.collect::<Vec<_>>().join(" ")
}

/// The texts that docs/words.md says are in use now: the third column of the table of its last part.
fn sentences_in_use(words: &str) -> Vec<String> {
    let (_, sentences) = words.split_once("\n## Sentences\n").unwrap_or_default();
    let (_, rows) = sentences.split_once("|---|---|---|\n").unwrap_or_default();
    let third = |row: &str| {
        row.split(" | ")
            .nth(2)
            .map(|it| it.trim_end_matches(" |").to_owned())
    };
    rows.lines().filter_map(third).collect()
}

/// Goal: what the page of words gives as a good sentence is in use. Method: each is looked for in all other files that git knows.
#[test]
fn good_sentences_are_in_use() {
    const WORDS: &str = "docs/words.md";
    let sentences = sentences_in_use(&std::fs::read_to_string(root().join(WORDS)).unwrap());
    assert!(sentences.len() > 10, "{sentences:?}");
    let files = files_of_git(&root(), "*").unwrap();
    let texts: Vec<String> = files
        .iter()
        .filter(|file| *file != WORDS)
        .filter_map(|file| std::fs::read_to_string(root().join(file)).ok())
        .map(|text| in_one_line(&text))
        .collect();
    let gone = sentences
        .iter()
        .filter(|sentence| !texts.iter().any(|text| text.contains(sentence.as_str())));
    let gone: Vec<&String> = gone.collect();
    assert!(
        gone.is_empty(),
        "{WORDS} has sentences that are nowhere: {gone:#?}"
    );
    assert_eq!(in_one_line("/// a\n    /// b \\\n  c"), "a b c");
}

/// Goal: the check above sees what it is for. Method: documents made by hand, in a repository of three files.
#[test]
fn what_does_not_exist_is_seen() {
    let files = ["README.md", "docs/a.md", "kmod/src/hook.c"];
    let tree = Tree::of(files.map(str::to_owned).to_vec());
    let read = |_: &str| "# A title: `code`, and more\n".to_owned();
    for (name, good) in [
        ("kmod/src/hook.c", true),
        ("kmod/src/", true),
        ("kmod/*/hook.c", true),
        ("../kmod", true),
        ("hook.c", true),
        ("src/hook.c", true),
        ("out/results.json", true),
        ("--flag", true),
        ("a/b", true),
        ("kmod/src/gone.c", false),
        ("kmod/*/gone.c", false),
        ("gone.c", false),
        ("../../kmod", false),
    ] {
        assert_eq!(tree.complaint("docs/a.md", name).is_none(), good, "{name}");
    }
    for (target, good) in [
        ("../README.md", true),
        ("../kmod/", true),
        ("a.md#a-title-code-and-more", true),
        ("#a-title-code-and-more", true),
        ("b.md", false),
        ("a.md#no-title", false),
        ("../../outside.md", false),
    ] {
        let dead = dead_link(&tree, "docs/a.md", target, read);
        assert_eq!(dead.is_none(), good, "{target}");
    }
    let text = "a [link](x.md) and `y.c`\n```\n`z.c` [no](w.md)\n```\n";
    let text = prose(text);
    assert_eq!(links(&text).collect::<Vec<_>>(), ["x.md"]);
    assert_eq!(quoted(&text).collect::<Vec<_>>(), ["y.c"]);
}
