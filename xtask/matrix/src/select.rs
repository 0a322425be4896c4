//! Choosing kernels, cases and mutants: by glob where one is given, else by tier.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cowbird_images::{Catalogue, KernelSource, Tier};
use glob::Pattern;
use sha2::{Digest, Sha256};

/// Something that has a name and takes part from some tier on.
pub trait Selectable {
    /// What to call it in messages.
    const KIND: &'static str;
    /// Its name.
    fn name(&self) -> &str;
    /// The name that it had first.
    fn first_name(&self) -> &str {
        self.name()
    }
    /// Whether a pattern matches its name, or the first one.
    fn is_named(&self, pattern: &Pattern) -> bool {
        pattern.matches(self.name()) || pattern.matches(self.first_name())
    }
    /// Whether it takes part in runs of `tier`.
    fn is_in(&self, tier: Tier) -> bool;
    /// With whom it takes turns.
    fn turns(&self) -> Turns {
        Turns::Shared
    }
}

/// With whom a later kernel takes turns: each kind among itself, so that no case has only kernels that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turns {
    /// Kernels that everybody can run.
    Shared,
    /// Kernels that somebody has to supply.
    Supplied,
    /// Kernels that nobody can run; their cells say why.
    Unsupported,
}

/// Those that any glob matches, each once, in their own order; without globs those of the tier. A
/// glob that matches nothing is an error: it is far more often a typing error than a wish.
/// A former name is as good as today's.
pub fn select<'a, T: Selectable>(all: &'a [T], globs: &[String], tier: Tier) -> Result<Vec<&'a T>> {
    if globs.is_empty() {
        return Ok(all.iter().filter(|item| item.is_in(tier)).collect());
    }
    let mut patterns = Vec::with_capacity(globs.len());
    for glob in globs {
        let pattern =
            Pattern::new(glob).with_context(|| format!("`{glob}` is not a valid pattern"))?;
        if !all.iter().any(|item| item.is_named(&pattern)) {
            let names: Vec<&str> = all.iter().map(T::name).collect();
            bail!(
                "no {} matches `{glob}`; {}",
                T::KIND,
                instead(glob, &names, T::KIND)
            );
        }
        patterns.push(pattern);
    }
    let wanted = |item: &&T| patterns.iter().any(|pattern| item.is_named(pattern));
    Ok(all.iter().filter(wanted).collect())
}

/// Names that are shown in full where a name is wrong.
const ALL_SHOWN: usize = 10;

/// What may have been meant by a name or pattern that nothing has: all names where there are few, else those that are most like it.
fn instead(wrong: &str, names: &[&str], kind: &str) -> String {
    if names.len() <= ALL_SHOWN {
        return format!("there are: {}", names.join(", "));
    }
    let plain = wrong.replace(['*', '?', '[', ']'], "");
    let likeness = |name: &str| match name.contains(plain.as_str()) {
        true => 1.0,
        false => strsim::jaro_winkler(&plain, name),
    };
    let mut near = names.to_vec();
    // Stable: of equals the first that there is.
    near.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    near.truncate(ALL_SHOWN / 2);
    format!(
        "most like it are {}; `cargo xtask {kind}s` lists all {}",
        near.join(", "),
        names.len()
    )
}

/// Those that have one of these names, in their own order. A name that nothing has is an error.
pub fn select_named<'a, T: Selectable>(all: &'a [T], names: &[String]) -> Result<Vec<&'a T>> {
    for name in names {
        if !all
            .iter()
            .any(|item| item.name() == name || item.first_name() == name)
        {
            let names: Vec<&str> = all.iter().map(T::name).collect();
            bail!(
                "there is no {} {name}; {}",
                T::KIND,
                instead(name, &names, T::KIND)
            );
        }
    }
    let wanted = |item: &&T| {
        names
            .iter()
            .any(|name| name == item.name() || name == item.first_name())
    };
    Ok(all.iter().filter(wanted).collect())
}

/// The ends of the quick tier, where kernels differ most.
pub fn oldest_and_newest(catalogue: &Catalogue) -> Result<Vec<String>> {
    let quick = select(&catalogue.kernels, &[], Tier::Quick)?;
    let mut ends: Vec<String> = [quick.first(), quick.last()]
        .into_iter()
        .flatten()
        .map(|kernel| kernel.name.clone())
        .collect();
    ends.dedup();
    Ok(ends)
}

/// Of the cases that come after the quick tier, a kernel that comes after it runs one in so many. Prime to the three
/// flavours of a series, so that a case meets them all.
const TURNS: usize = 8;

/// Shares the later cases out to the later kernels. Kernels of one series and flavour differ by little, and all of
/// them by all cases are too many to be run: every kernel runs the quick cases, every case runs on the quick
/// kernels, and the rest is shared. A kernel's turn follows from its place among those of its [`Turns`], the kernels of the daily tier first;
/// that of a case from its name alone: a case that comes or goes moves no other. Neither depends on the tier of a run, so that tiers nest.
pub struct Sharing {
    /// The later kernels, and of each its place, and how many turns there are.
    kernels: BTreeMap<String, (usize, usize)>,
    cases: BTreeSet<String>,
}

impl Sharing {
    /// Of everything that there is.
    pub fn new<K: Selectable, C: Selectable>(kernels: &[K], cases: &[C]) -> Self {
        let mut kinds: BTreeMap<Turns, Vec<&K>> = BTreeMap::new();
        for kernel in kernels.iter().filter(|kernel| is_later(*kernel)) {
            kinds.entry(kernel.turns()).or_default().push(kernel);
        }
        let mut places = BTreeMap::new();
        for mut kind in kinds.into_values() {
            // Stable: those of a tier stay in the order of the catalogue.
            kind.sort_by_key(|kernel| !kernel.is_in(Tier::Daily));
            let turns = kind.len().min(TURNS);
            let of_kind = kind.iter().enumerate();
            places
                .extend(of_kind.map(|(place, kernel)| (kernel.name().to_owned(), (place, turns))));
        }
        let cases = cases.iter().filter(|case| is_later(*case));
        Self {
            kernels: places,
            cases: cases.map(|case| case.name().to_owned()).collect(),
        }
    }

    /// Whether the kernel runs the case where neither was asked for by name.
    pub fn has(&self, kernel: &str, case: &str) -> bool {
        match self.kernels.get(kernel) {
            Some((place, turns)) if self.cases.contains(case) => {
                place % turns == turn(case) % turns
            }
            _ => true,
        }
    }
}

fn is_later<T: Selectable>(item: &T) -> bool {
    !item.is_in(Tier::Quick)
}

/// The turn of a case. The last byte of the digest is as good as any other.
fn turn(case: &str) -> usize {
    let digest = Sha256::digest(cowbird_cases::former::first(case).as_bytes());
    usize::from(digest[digest.len() - 1]) % TURNS
}

impl Selectable for cowbird_images::KernelSpec {
    const KIND: &'static str = "kernel";

    fn name(&self) -> &str {
        &self.name
    }

    fn is_in(&self, tier: Tier) -> bool {
        self.tiers.contains(&tier)
    }

    fn turns(&self) -> Turns {
        match self.source {
            _ if self.unsupported.is_some() => Turns::Unsupported,
            KernelSource::Supplied(_) => Turns::Supplied,
            KernelSource::Sources { .. } | KernelSource::Packages(_) => Turns::Shared,
        }
    }
}

impl Selectable for cowbird_cases::CaseInfo {
    const KIND: &'static str = "case";

    fn name(&self) -> &str {
        self.name
    }

    fn first_name(&self) -> &str {
        cowbird_cases::former::first(self.name)
    }

    fn is_in(&self, tier: Tier) -> bool {
        use cowbird_cases::CaseTier;
        let from = match self.tier {
            CaseTier::Quick => Tier::Quick,
            CaseTier::Daily => Tier::Daily,
            CaseTier::Full => Tier::Full,
        };
        from <= tier
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(&'static str, Tier);

    impl Selectable for Thing {
        const KIND: &'static str = "thing";

        fn name(&self) -> &str {
            self.0
        }

        fn first_name(&self) -> &str {
            match self.0 {
                "raw" => "bare",
                name => name,
            }
        }

        fn is_in(&self, tier: Tier) -> bool {
            self.1 <= tier
        }
    }

    fn chosen(globs: &[&str], tier: Tier) -> Result<Vec<&'static str>, String> {
        let things = [
            Thing("ext4-files", Tier::Quick),
            Thing("ext4-long", Tier::Full),
            Thing("raw", Tier::Daily),
        ];
        let globs: Vec<String> = globs.iter().map(ToString::to_string).collect();
        select(&things, &globs, tier)
            .map(|chosen| chosen.iter().map(|thing| thing.0).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn tiers_choose_where_no_glob_does() {
        assert_eq!(chosen(&["bare"], Tier::Quick), Ok(vec!["raw"]));
        assert_eq!(chosen(&[], Tier::Quick), Ok(vec!["ext4-files"]));
        assert_eq!(chosen(&[], Tier::Daily), Ok(vec!["ext4-files", "raw"]));
        assert_eq!(chosen(&["*-long"], Tier::Quick), Ok(vec!["ext4-long"]));
        assert_eq!(
            chosen(&["raw", "ext4*", "raw"], Tier::Quick),
            Ok(vec!["ext4-files", "ext4-long", "raw"])
        );
    }

    fn names(what: &str, count: usize) -> Vec<String> {
        (0..count)
            .map(|number| format!("{what}-{number}"))
            .collect()
    }

    /// A kernel or case of the full tier.
    struct Later(String, Turns);

    impl Selectable for Later {
        const KIND: &'static str = "later thing";

        fn name(&self) -> &str {
            &self.0
        }

        fn is_in(&self, tier: Tier) -> bool {
            tier == Tier::Full
        }

        fn turns(&self) -> Turns {
            self.1
        }
    }

    fn later(names: Vec<String>) -> Vec<Later> {
        names
            .into_iter()
            .map(|name| Later(name, Turns::Shared))
            .collect()
    }

    #[test]
    fn later_ones_meet_in_turn() {
        let (kernels, cases) = (names("later", 36), names("long", 200));
        let sharing = Sharing::new(&later(kernels.clone()), &later(cases.clone()));
        assert!(sharing.has("quick", "long-3") && sharing.has("later-3", "short"));
        for case in &cases {
            let met = kernels
                .iter()
                .enumerate()
                .filter(|(_, kernel)| sharing.has(kernel, case));
            let met: Vec<usize> = met.map(|(at, _)| at).collect();
            assert!((4..=5).contains(&met.len()), "{case}: {met:?}");
            for flavour in 0..3 {
                assert!(met.iter().any(|at| at % 3 == flavour), "{case}: {met:?}");
            }
        }
        for kernel in &kernels {
            let of_it = cases.iter().filter(|case| sharing.has(kernel, case));
            let of_it = of_it.count();
            assert!((13..=38).contains(&of_it), "{kernel}: {of_it} of 200");
        }
    }

    /// Goal: a new case moves no other one. Method: cases come before, between and behind others, which keep their kernels.
    #[test]
    fn a_new_case_moves_no_other() {
        let kernels = names("later", 36);
        let before = Sharing::new(&later(kernels.clone()), &later(names("long", 20)));
        let mut after = names("long", 20);
        for (at, name) in [(0, "new"), (7, "newer"), (22, "newest")] {
            after.insert(at, name.to_owned());
        }
        let after = Sharing::new(&later(kernels.clone()), &later(after));
        for (kernel, case) in kernels
            .iter()
            .flat_map(|kernel| before.cases.iter().map(move |case| (kernel, case)))
        {
            assert_eq!(before.has(kernel, case), after.has(kernel, case));
        }
    }

    /// Goal: kernels that cannot be run take nobody's turn. Method: every second kernel is unsupported and one is supplied, and each case must meet
    /// as many of each kind as if there were no other.
    #[test]
    fn absent_kernels_take_no_turn() {
        let turns = |at: usize| match at {
            0 => Turns::Supplied,
            _ if at % 2 == 1 => Turns::Unsupported,
            _ => Turns::Shared,
        };
        let kernels = names("later", 33).into_iter().enumerate();
        let kernels: Vec<Later> = kernels.map(|(at, name)| Later(name, turns(at))).collect();
        let cases = names("long", 100);
        let sharing = Sharing::new(&kernels, &later(cases.clone()));
        for case in &cases {
            let met = |turns| {
                let of_it = kernels.iter().filter(|kernel| kernel.1 == turns);
                of_it.filter(|kernel| sharing.has(&kernel.0, case)).count()
            };
            let met = [Turns::Supplied, Turns::Shared, Turns::Unsupported].map(met);
            assert_eq!(met, [1, 2, 2], "{case}");
        }
    }

    /// Goal: each tier runs each of its later cases on a later kernel that everybody can run.
    #[test]
    fn every_case_of_a_tier_meets_a_later_kernel() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let catalogue = Catalogue::load(root.join(Catalogue::PATH_IN_REPO)).unwrap();
        let cases = cowbird_harness::catalogue::cases();
        let sharing = Sharing::new(&catalogue.kernels, cases);
        for tier in [Tier::Daily, Tier::Full] {
            let kernels: Vec<_> = catalogue
                .kernels
                .iter()
                .filter(|kernel| kernel.is_in(tier) && is_later(*kernel))
                .filter(|kernel| kernel.turns() == Turns::Shared)
                .collect();
            for case in cases.iter().filter(|case| case.is_in(tier)) {
                let met = kernels
                    .iter()
                    .filter(|kernel| sharing.has(&kernel.name, case.name));
                let (name, all) = (case.name, kernels.len());
                assert!(
                    met.count() > 0,
                    "{tier:?}: {name} meets none of {all} kernels"
                );
            }
        }
    }

    #[test]
    fn what_matches_nothing_is_an_error() {
        let many: Vec<String> = (0..40).map(|at| format!("kernel-{at}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let near = instead("kernle-39", &many, "kernel");
        assert!(near.starts_with("most like it are kernel-39, "), "{near}");
        assert!(near.ends_with("; `cargo xtask kernels` lists all 40"));
        let unknown = "no thing matches `xfs*`; there are: ext4-files, ext4-long, raw";
        assert_eq!(chosen(&["raw", "xfs*"], Tier::Quick), Err(unknown.into()));
        assert_eq!(
            chosen(&["["], Tier::Quick),
            Err("`[` is not a valid pattern".into())
        );
    }

    /// Goal: a name is no pattern, whatever characters it has, and one that nothing has is an error.
    #[test]
    fn names_are_taken_as_they_are() {
        let things = [Thing("raw", Tier::Daily), Thing("raw[1]*", Tier::Full)];
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            select_named(&things, &names)
                .map(|chosen| chosen.iter().map(|thing| thing.0).collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        };
        assert_eq!(named(&["raw[1]*"]), Ok(vec!["raw[1]*"]));
        assert_eq!(named(&["raw[1]*", "raw"]), Ok(vec!["raw", "raw[1]*"]));
        assert_eq!(
            named(&["raw*"]),
            Err("there is no thing raw*; there are: raw, raw[1]*".into())
        );
    }
}
