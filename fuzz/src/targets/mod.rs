//! The parsers, and what must hold of each whatever its input is.
//!
//! Every check fails by a panic or by an error of its own. That it ends in time and takes no more memory than it may is
//! looked at by the engine. Where there is a writer, what was parsed and is written again must parse to the same.

mod cow;
mod recorded;
mod reports;
mod tools;

use crate::target::Target;

/// All of them.
pub const TARGETS: &[Target] = &[
    cow::FILE,
    cow::HEADER,
    cow::STATE,
    recorded::WITNESS,
    recorded::WORKLOAD,
    recorded::BLKPARSE,
    recorded::IOLOG,
    recorded::TRACE,
    recorded::BTF,
    recorded::FRAMES,
    tools::LABEL,
    tools::SERIES,
    tools::CHANGE_MAP,
    tools::INFO,
    tools::MOUNTS,
    tools::PACKAGES,
    tools::RELEASE,
    tools::MODULE,
    reports::RESULTS,
    reports::PLAN,
    reports::JOURNAL,
];

/// The target of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Goal: names are unique, seeds are valid, and no seed is longer than its target allows.
    #[test]
    fn targets_are_consistent() {
        let names: HashSet<&str> = TARGETS.iter().map(|target| target.name).collect();
        assert_eq!(names.len(), TARGETS.len());
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            let mut accepted = 0;
            for seed in seeds {
                assert!(seed.len() <= target.max_bytes, "{}", target.name);
                let mut repaired = seed.clone();
                (target.repair)(&mut repaired);
                assert!(repaired == seed, "{}: a seed is not valid", target.name);
                let kind = crate::engine::judge(target, &seed).unwrap();
                accepted += u32::from(kind.is_accepted());
            }
            assert!(accepted > 0, "{}: no seed is taken for valid", target.name);
        }
    }
}
