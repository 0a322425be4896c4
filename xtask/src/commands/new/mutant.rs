//! A new mutant: its paragraph in the list. Beside it the author writes one line in the C code, where the fault is.

use anyhow::{Result, bail};
use cowbird_matrix::mutants::{ALL, PATH_IN_REPO, load};

use super::files::{check_words, read, write};
use crate::repo;
use crate::ui::print;

/// The paragraph, with what its author decides.
const PARAGRAPH: &str = include_str!("mutant.toml.txt");

/// What the paragraph has in place of the name.
const NAME: &str = "NAME-OF-THE-MUTANT";

/// Makes the mutant; the value is the exit code.
pub(super) fn command(name: &str) -> Result<u8> {
    check_words(name, "mutant", "no-gate")?;
    let mutants = load(&repo::root())?;
    if name == ALL || mutants.iter().any(|mutant| mutant.name == name) {
        bail!("the name `{name}` is taken; `cargo xtask mutants --list` lists all");
    }
    let list = repo::root().join(PATH_IN_REPO);
    write(&list, &with_paragraph(&read(&list)?, name))?;
    print(&format!(
        "added `{name}` to {PATH_IN_REPO}: say there what it breaks and who sees it\n\
         break the rule in kmod/src with: if (cb_mutant({})) ...\n\
         run it: cargo xtask mutants --kernel bookworm-6.1-cloud --mutant {name}\n",
        name.replace('-', "_")
    ))?;
    Ok(0)
}

/// The list with one more, at its end.
fn with_paragraph(list: &str, name: &str) -> String {
    list.trim_end().to_owned() + "\n" + &PARAGRAPH.replace(NAME, name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Goal: the list of this checkout takes a mutant at its end, nothing else of it changes, and it can be read as it is. Method:
    /// the list with the paragraph as it is written, and with each of its keys that are comments.
    #[test]
    fn the_list_takes_a_mutant() {
        let list = read(&repo::root().join(PATH_IN_REPO)).expect("it can be read");
        let longer = with_paragraph(&list, "my-fault");
        assert!(longer.starts_with(list.trim_end()));
        let with_all = longer
            .replace("# require =", "require =")
            .replace("# says =", "says =")
            .replace("# ends =", "ends =")
            .replace("# closes =", "closes =");
        assert_ne!(longer, with_all);
        for text in [longer, with_all] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join(PATH_IN_REPO);
            fs::create_dir_all(path.parent().expect("it lies in one")).expect("a folder");
            fs::write(&path, text).expect("it can be written");
            let mutants = load(folder.path()).expect("it is sound");
            let last = mutants.last().expect("there are some");
            assert_eq!(last.name, "my-fault");
            assert_eq!(last.cases, ["raw-writers"]);
        }
    }

    /// Goal: names are those that Kbuild and the list take, and each once.
    #[test]
    fn names_that_are_taken_are_refused() {
        for name in ["no-gate", "all", "No", "a_b", ""] {
            assert!(command(name).is_err(), "{name}");
        }
    }
}
