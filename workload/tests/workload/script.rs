//! Scripts: what is read back, what is refused, and what is in flight together.

use cowbird_workload::{Extent, Script, ScriptError, Step};

fn steps(lines: &[&str]) -> Result<Vec<Step>, ScriptError> {
    lines.iter().map(|line| line.parse()).collect()
}

fn script(volume_sectors: u64, lines: &[&str]) -> Result<Script, String> {
    steps(lines)
        .and_then(|steps| Script::new(volume_sectors, steps))
        .map_err(|error| error.to_string())
}

const EVERY_STEP: [&str; 11] = [
    "a write 0+8",
    "snapshot",
    "b write-cached 8+1",
    "z write-durable 16+128",
    "a write-flushed 1+2",
    "c read 64+8",
    "track",
    "a discard 2040+13",
    "b zero 7+2",
    "next",
    "a read 0+2053",
];

/// Goal: the lines of a regression file are its steps, no more and no less.
#[test]
fn steps_are_read_back() {
    let script = script(2053, &EVERY_STEP).expect("a script");
    let lines: Vec<String> = script.steps().iter().map(ToString::to_string).collect();
    assert_eq!(lines, EVERY_STEP);
    assert_eq!(script.epochs(), 2);
    assert_eq!(script.tasks().count(), 8);
}

#[test]
fn what_is_no_step_is_refused() {
    for line in [
        "",
        "write 0+8",
        "A write 0+8",
        "ab write 0+8",
        "a writes 0+8",
        "a write 0-8",
        "a write 0+8 now",
        "a write -1+8",
        "snapshots",
    ] {
        let refused = steps(&[line]).expect_err(line).to_string();
        assert!(refused.contains("is no step"), "{refused}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (lines, said) in [
        (&["a write 0+8"][..], "takes no snapshot"),
        (
            &["snapshot", "snapshot"],
            "step 2, `snapshot`, is not the first",
        ),
        (&["next"], "does not follow `track`"),
        (&["track"], "does not follow a snapshot"),
        (&["a read 0+8", "snapshot"], "reads where no snapshot is"),
        (
            &["snapshot", "track", "a read 0+8"],
            "reads where no snapshot is",
        ),
        (&["snapshot", "a write 2050+4"], "ends behind the volume"),
        (
            &["snapshot", "a write 18446744073709551615+1"],
            "ends behind the volume",
        ),
        (&["snapshot", "a write 0+0"], "has no sectors"),
        (&["snapshot", "a write 0+16385"], "has no sectors"),
    ] {
        let refused = script(2053, lines).expect_err(said);
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn stages_end_with_what_concerns_the_snapshot() {
    let stages = script(2053, &EVERY_STEP).expect("a script").stages();
    let shape: Vec<(usize, Option<String>)> = stages
        .iter()
        .map(|stage| (stage.tasks.len(), stage.then.map(|step| step.to_string())))
        .collect();
    let ends = |name: &str| Some(name.to_owned());
    assert_eq!(
        shape,
        [
            (1, ends("snapshot")),
            (4, ends("track")),
            (2, ends("next")),
            (1, None)
        ]
    );
}

#[test]
fn touched_blocks_are_whole_and_each_is_there_once() {
    let lines = [
        "snapshot",
        "a write 70+1",
        "b zero 71+2",
        "a write 2050+3",
        "a read 9+1",
    ];
    let touched = script(2053, &lines).expect("a script").touched();
    let places: Vec<(u64, u64)> = touched
        .iter()
        .map(|Extent { start, sectors }| (start.0, *sectors))
        .collect();
    assert_eq!(places, [(8, 8), (64, 16), (2048, 5)]);
}

/// Goal: two changes of the same sectors are never in flight together, where the page cache is
/// involved of the same block; reads race with everything.
#[test]
fn overlapping_changes_wait_for_each_other() {
    let task = |line: &str| match line.parse() {
        Ok(Step::Do(task)) => task,
        other => panic!("{line} is no task: {other:?}"),
    };
    let waits = |earlier: &str, later: &str| task(earlier).precedes(&task(later));
    assert!(waits("a write 0+8", "b zero 7+1"));
    assert!(!waits("a write 0+7", "b write 7+1"));
    assert!(waits("a write-cached 0+7", "b write 7+1"));
    assert!(waits("a write 0+7", "b write-cached 7+1"));
    assert!(!waits("a write-cached 0+8", "b write 8+1"));
    assert!(!waits("a write 0+8", "b read 0+8"));
    assert!(!waits("a read 0+8", "b write 0+8"));
}
