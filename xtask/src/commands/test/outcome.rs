//! What came of the steps, as their output says.

/// What became of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
}

impl Count {
    /// A step that is not made of tests.
    pub fn one(good: bool) -> Self {
        if good {
            Self {
                passed: 1,
                failed: 0,
            }
        } else {
            Self {
                passed: 0,
                failed: 1,
            }
        }
    }
}

/// What came of one step: its count, and what failed in it, some lines each.
#[derive(Debug, Default)]
pub struct Outcome {
    pub count: Count,
    pub failures: String,
    /// What was left out.
    pub skipped: Vec<Skip>,
}

/// Tests or cells that were left out, or a step that was.
#[derive(Debug, PartialEq, Eq)]
pub struct Skip {
    /// How many; a step counts as one.
    pub count: u64,
    /// Which, and why.
    pub reason: String,
}

impl Skip {
    /// One.
    pub fn one(reason: String) -> Self {
        Self { count: 1, reason }
    }
}

impl Outcome {
    /// A step that was left out.
    pub fn skip(reason: String) -> Self {
        Self {
            skipped: vec![Skip::one(reason)],
            ..Self::default()
        }
    }
}

impl From<Count> for Outcome {
    fn from(count: Count) -> Self {
        Self {
            count,
            ..Self::default()
        }
    }
}

/// Counts the tests in the output of `cargo test`. A run that failed without a failing test did not
/// compile or crashed, and counts as one failure.
pub fn count_tests(output: &str, good: bool) -> Count {
    let mut count = Count::default();
    for line in output.lines() {
        let Some(rest) = line.strip_prefix("test result: ") else {
            continue;
        };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<u64>().ok());
            match (number, words.next()) {
                (Some(number), Some("passed")) => count.passed += number,
                (Some(number), Some("failed")) => count.failed += number,
                _ => {}
            }
        }
    }
    if !good && count.failed == 0 {
        count.failed = 1;
    }
    count
}

/// What tests left out that count themselves, as those do that need a kernel of a certain kind.
pub fn skipped_tests(output: &str) -> Vec<Skip> {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ")?.strip_suffix(" SKIPPED"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .filter(|count| *count > 0)
        .map(|count| Skip {
            count,
            reason: format!(
                "{count} tests that this machine cannot run; tests.log says which and why"
            ),
        })
        .collect()
}

/// The names of the tests that failed in the output of `cargo test`, a line each.
pub fn failed_tests(output: &str) -> String {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
        .fold(String::new(), |text, name| text + name + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 3 tests
test a ... ok
test b::c ... FAILED
test b::d ... FAILED
test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s
test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.5s
";

    #[test]
    fn what_is_skipped_is_told() {
        let output = "test result: 1 passed; 0 failed; 12 SKIPPED\ntest result: 9 passed; 0 failed; 0 SKIPPED\n";
        let skipped = skipped_tests(&format!("{OUTPUT}{output}"));
        assert_eq!(skipped.len(), 1);
        assert_eq!(skipped[0].count, 12);
        assert!(skipped[0].reason.starts_with("12 tests"), "{skipped:?}");
    }

    #[test]
    fn tests_are_counted() {
        assert_eq!(
            count_tests(OUTPUT, false),
            Count {
                passed: 15,
                failed: 2
            }
        );
        assert_eq!(
            count_tests("error: could not compile", false),
            Count {
                passed: 0,
                failed: 1
            }
        );
        assert_eq!(count_tests("", true), Count::default());
        // A binary that crashed left no result of its own.
        let first = OUTPUT.lines().take(5).collect::<Vec<_>>().join("\n");
        assert_eq!(
            count_tests(&first, false),
            Count {
                passed: 12,
                failed: 1
            }
        );
    }
}
