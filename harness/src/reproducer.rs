//! A cell that failed as a script: what its workload did to the origin, thread by thread, and what
//! was asked of the module, in the order of time.
//!
//! The journal has what workloads issued, and beside it, on the same clock, what the host let run. That takes
//! a while, and the instant lies somewhere in it: what was issued meanwhile is put where a fault needs it,
//! behind a snapshot's instant and before the one that ends a time of tracking.
//!
//! What cannot be told so: operations on files of a filesystem, whose places on the origin the journal does
//! not have; reads of the snapshot, which it does not list ([`with_reads`] makes them up); and what was in
//! flight at an instant, because a script waits for it.

use std::collections::BTreeSet;

use cowbird_proto::message::{Event, JournalEntry, Operation, WriteMode};
use cowbird_workload::script::MAX_TASK_SECTORS;
use cowbird_workload::{BLOCK_SECTORS, Extent, Op, Sector, Step, Task, Thread, Way};

/// Threads of reads, so many letters behind the threads that they follow.
const READER_SHIFT: u32 = 13;

/// What a journal tells, each by the guest's time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timeline {
    /// What the workload did to the origin.
    pub(crate) tasks: Vec<(u64, Task)>,
    /// What was asked of the module.
    pub(crate) controls: Vec<(u64, Step)>,
}

/// What workloads did to an origin of this size, and what was asked of the module.
pub(crate) fn timeline(events: &[Event], volume_sectors: u64) -> Timeline {
    let mut timeline = Timeline::default();
    for event in events {
        match event {
            Event::Journal {
                thread, entries, ..
            } => timeline.tasks.extend(
                entries
                    .iter()
                    .filter_map(|entry| task(Thread::new(*thread), entry)),
            ),
            Event::Ran {
                command,
                started_ns,
                ended_ns,
            } => timeline
                .controls
                .extend(control(command).map(|step| match step {
                    Step::Next => (*ended_ns, step),
                    _ => (*started_ns, step),
                })),
            _ => {}
        }
    }
    timeline
        .tasks
        .retain(|(_, task)| fits(task, volume_sectors));
    // Stable: what has the same time stays in the order in which it was told.
    timeline.tasks.sort_by_key(|(at_ns, _)| *at_ns);
    timeline.controls.sort_by_key(|(at_ns, _)| *at_ns);
    timeline
}

/// The steps of a cell, from the first snapshot on.
#[must_use]
pub fn from_journal(events: &[Event], volume_sectors: u64) -> Vec<Step> {
    let Timeline { tasks, controls } = timeline(events, volume_sectors);
    let tasks = tasks
        .into_iter()
        .map(|(at_ns, task)| (at_ns, Step::Do(task)));
    let mut steps: Vec<(u64, Step)> = tasks.chain(controls).collect();
    steps.sort_by_key(|(at_ns, _)| *at_ns);
    steps
        .into_iter()
        .map(|(_, step)| step)
        .skip_while(|step| *step != Step::Snapshot)
        .collect()
}

/// What an entry of the journal did to the origin, when it was issued.
fn task(thread: Thread, entry: &JournalEntry) -> Option<(u64, Task)> {
    let JournalEntry::Issued { at_ns, what, .. } = entry else {
        return None;
    };
    let (op, offset, length) = match what {
        Operation::Write {
            offset,
            length,
            mode,
            ..
        } => (Op::Write(way(*mode)), offset, length),
        Operation::Discard { offset, length } => (Op::Discard, offset, length),
        Operation::ZeroOut { offset, length } => (Op::Zero, offset, length),
        _ => return None,
    };
    let task = Task {
        thread,
        op,
        extent: Extent::of_bytes(*offset, *length),
    };
    Some((*at_ns, task))
}

/// What the control tool is asked for, as far as scripts have it.
fn control(command: &str) -> Option<Step> {
    let mut words = command.split_whitespace();
    match words.find(|word| !word.starts_with('/'))? {
        "setup-snapshot" => Some(Step::Snapshot),
        "transition-to-incremental" => Some(Step::Track),
        "transition-to-snapshot" => Some(Step::Next),
        _ => None,
    }
}

fn way(mode: WriteMode) -> Way {
    match mode {
        WriteMode::Buffered | WriteMode::Synced | WriteMode::Mapped => Way::Cached,
        WriteMode::Direct | WriteMode::Aio | WriteMode::Uring => Way::Direct,
        WriteMode::DataSync => Way::Durable,
        WriteMode::Flushed => Way::Flushed,
    }
}

fn fits(task: &Task, volume_sectors: u64) -> bool {
    let sectors = task.extent.sectors;
    (1..=MAX_TASK_SECTORS).contains(&sectors) && task.extent.end().0 <= volume_sectors
}

/// The steps that touch any of these blocks or the so many before and behind each, and those about the
/// snapshot.
#[must_use]
pub fn around(steps: &[Step], blocks: &BTreeSet<u64>, reach: u64) -> Vec<Step> {
    let near = |extent: &Extent| {
        let first = (extent.start.0 / BLOCK_SECTORS).saturating_sub(reach);
        let last = (extent.end().0 - 1) / BLOCK_SECTORS + reach;
        blocks.range(first..=last).next().is_some()
    };
    let is_wanted = |step: &&Step| match step {
        Step::Do(task) => near(&task.extent),
        _ => true,
    };
    steps.iter().filter(is_wanted).copied().collect()
}

/// The same with a reader behind each step that changes something while a snapshot is there: what raced
/// with it, if anything did.
#[must_use]
pub fn with_reads(steps: &[Step]) -> Vec<Step> {
    let mut all = Vec::new();
    let mut shown = false;
    for step in steps {
        all.push(*step);
        match step {
            Step::Snapshot | Step::Next => shown = true,
            Step::Track => shown = false,
            Step::Do(task) if shown && task.op.changes() => all.push(Step::Do(Task {
                thread: task.thread.shifted(READER_SHIFT),
                op: Op::Read,
                extent: task.extent,
            })),
            Step::Do(_) => {}
        }
    }
    all
}

/// The same, so many whole blocks further to the front of the volume; none if one would lie before it.
#[must_use]
pub fn moved(steps: &[Step], blocks: u64) -> Option<Vec<Step>> {
    let sectors = blocks * BLOCK_SECTORS;
    let one = |step: &Step| match step {
        Step::Do(task) => {
            let start = task.extent.start.0.checked_sub(sectors)?;
            let extent = Extent {
                start: Sector(start),
                ..task.extent
            };
            Some(Step::Do(Task { extent, ..*task }))
        }
        other => Some(*other),
    };
    steps.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;
    use cowbird_cases::begin;
    use cowbird_proto::message::WorkloadId;
    use cowbird_session::input::CaseInput;

    fn issued(thread: u32, timeline: &[(u64, Operation)]) -> Event {
        let entry = |(at_ns, what): &(u64, Operation)| JournalEntry::Issued {
            op: *at_ns,
            at_ns: *at_ns,
            what: what.clone(),
        };
        Event::Journal {
            workload: WorkloadId(1),
            thread,
            entries: timeline.iter().map(entry).collect(),
        }
    }

    fn write(block: u64, mode: WriteMode) -> Operation {
        Operation::Write {
            identity: 1,
            offset: block * 4096,
            length: 4096,
            generation: 1,
            mode,
        }
    }

    fn ran(arguments: &str, started_ns: u64, ended_ns: u64) -> Event {
        Event::Ran {
            command: format!("/bin/cowbirdctl {arguments}"),
            started_ns,
            ended_ns,
        }
    }

    fn lines(steps: &[Step]) -> Vec<String> {
        steps.iter().map(ToString::to_string).collect()
    }

    fn timeline() -> Vec<Step> {
        let events = [
            issued(
                1,
                &[
                    (5, write(9, WriteMode::Direct)),
                    (20, write(1, WriteMode::Aio)),
                    (45, write(2, WriteMode::Mapped)),
                ],
            ),
            ran("setup-snapshot -c 8 -f 56 /dev/vda1 /mnt/cow/x 0", 10, 30),
            issued(
                0,
                &[
                    (12, write(3, WriteMode::Flushed)),
                    (
                        50,
                        Operation::Discard {
                            offset: 4096,
                            length: 8192,
                        },
                    ),
                    (70, write(99, WriteMode::Direct)),
                    (80, Operation::Sync { identity: 1 }),
                ],
            ),
            ran("transition-to-incremental 0", 40, 47),
            ran("transition-to-snapshot -c 8 0", 48, 60),
            ran("changes 0 --output /map-0", 61, 62),
        ];
        from_journal(&events, 64 * BLOCK_SECTORS)
    }

    /// Goal: a cell is told in the order of time, what was issued around an instant on the side where a
    /// fault needs it. What was before the snapshot, or is no place of the volume, is left out.
    #[test]
    fn a_cell_is_told_again() {
        assert_eq!(
            lines(&timeline()),
            [
                "snapshot",
                "a write-flushed 24+8",
                "b write 8+8",
                "track",
                "b write-cached 16+8",
                "a discard 8+16",
                "next",
            ]
        );
    }

    #[test]
    fn slices_keep_what_is_near() {
        let near = |block: u64, reach| lines(&around(&timeline(), &[block].into(), reach));
        let one = ["snapshot", "b write 8+8", "track", "a discard 8+16", "next"];
        assert_eq!(near(1, 0), one);
        assert_eq!(near(0, 1), one);
        assert_eq!(near(0, 0), ["snapshot", "track", "next"]);
    }

    #[test]
    fn readers_follow_writers_while_there_is_a_snapshot() {
        assert_eq!(
            lines(&with_reads(&timeline())),
            [
                "snapshot",
                "a write-flushed 24+8",
                "n read 24+8",
                "b write 8+8",
                "o read 8+8",
                "track",
                "b write-cached 16+8",
                "a discard 8+16",
                "next",
            ]
        );
    }

    #[test]
    fn nothing_is_moved_before_the_front() {
        let moved_by = |blocks| moved(&timeline(), blocks).map(|steps| lines(&steps));
        let by_one = moved_by(1).expect("block 1 is the first");
        assert_eq!(by_one[1..3], ["a write-flushed 16+8", "b write 0+8"]);
        assert_eq!(moved_by(2), None);
    }

    /// Goal: only what has places of the origin in its journal is told again.
    #[test]
    fn files_have_no_places() {
        let plain = |case: &str| {
            let case = catalogue::find(case).expect("a case");
            let context = begin::context(case, 1, &CaseInput::USUAL, None);
            context.layout().is_plain()
        };
        for case in ["raw-writers", "hot-read", "write-kinds", "series"] {
            assert!(plain(case), "{case}");
        }
        for case in ["ext4-churn", "two-volumes", "whole-disk", "dm-crypt"] {
            assert!(!plain(case), "{case}");
        }
    }
}
