//! `info` of a workload: what it does, as sums or operation by operation.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};

use anyhow::{Context, Result};
use cowbird_outside::foreign::{self, Input};
use cowbird_outside::printable;
use cowbird_workload::{
    Action, Content, Flags, MAX_FILE_BYTES, Operation, Source, Workload, import, recognise,
};

use crate::commands::Outcome;
use crate::complain::complain;

const MICROS: u64 = 1000;

/// Whether a file is a workload, or a text that can be read as one.
pub fn is_one(input: &Input) -> Result<bool> {
    Ok(recognise(&input.start()?).is_some_and(|source| source != Source::Trace))
}

pub fn run(input: &Input, operations: bool) -> Result<Outcome> {
    let path = input.path().display();
    let bytes = foreign::read_all(input.rewound()?, MAX_FILE_BYTES)
        .with_context(|| format!("cannot read {path}"))?;
    let workload = import(&bytes).with_context(|| path.to_string())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    print(&workload, operations, &mut out)
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;
    for doubt in workload.doubts() {
        complain!("the workload may lack operations: {doubt}");
    }
    Ok(match workload.doubts().is_empty() {
        true => Outcome::Done,
        false => Outcome::Incomplete,
    })
}

fn print(workload: &Workload, operations: bool, out: &mut impl Write) -> std::io::Result<()> {
    let last_ns = workload.operations().last().map_or(0, |last| last.at_ns);
    writeln!(out, "workload of    {}", printable(workload.source()))?;
    writeln!(out, "length         {} us", last_ns / MICROS)?;
    writeln!(
        out,
        "device         {} sectors used",
        workload.space_sectors()
    )?;
    let mut sums = BTreeMap::<&str, (u64, u64)>::new();
    let mut contents = BTreeMap::<&str, u64>::new();
    let mut known = BTreeSet::new();
    for operation in workload.operations() {
        let (count, bytes) = sums.entry(name(operation.action)).or_default();
        *count += 1;
        *bytes += operation.extent.length_bytes();
        for content in &operation.contents {
            *contents.entry(kind(*content)).or_default() += 1;
            if let Content::Known(number) = content {
                known.insert(*number);
            }
        }
    }
    for (name, (count, bytes)) in sums {
        writeln!(out, "{name:<14} {count}, {bytes} bytes")?;
    }
    for (kind, count) in contents {
        writeln!(out, "{kind:<14} {count} blocks or parts of blocks")?;
    }
    writeln!(out, "different      {} of the known contents", known.len())?;
    if operations {
        for operation in workload.operations() {
            writeln!(out, "{}", line(operation))?;
        }
    }
    Ok(())
}

fn line(operation: &Operation) -> String {
    let mut text = format!(
        "{:>10} us  {}",
        operation.at_ns / MICROS,
        name(operation.action)
    );
    let flags = [
        (Flags::SYNC, "sync"),
        (Flags::FUA, "fua"),
        (Flags::PREFLUSH, "preflush"),
    ];
    for (_, name) in flags.iter().filter(|(flag, _)| operation.flags.has(*flag)) {
        text += &format!(" {name}");
    }
    let extent = operation.extent;
    if !extent.is_empty() {
        text += &format!(" sector {} + {}", extent.start.0, extent.sectors);
    }
    for content in &operation.contents {
        text += &match content {
            Content::Unknown => " ?".to_owned(),
            Content::Zeroes => " 0".to_owned(),
            Content::Known(number) => format!(" #{number}"),
        };
    }
    text
}

fn name(action: Action) -> &'static str {
    match action {
        Action::Read => "read",
        Action::Write => "write",
        Action::Flush => "flush",
        Action::Discard => "discard",
        Action::WriteZeroes => "write_zeroes",
    }
}

fn kind(content: Content) -> &'static str {
    match content {
        Content::Unknown => "unknown",
        Content::Zeroes => "zeros",
        Content::Known(_) => "known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowbird_workload::{Builder, Extent};

    #[test]
    fn sums_and_operations_are_printed() {
        let mut builder = Builder::default();
        let extent = Extent::of_bytes(4096, 8192);
        let flags = Flags::SYNC.with(Flags::FUA, true);
        let at = builder
            .push(7000, Action::Write, flags, extent)
            .expect("room");
        builder.content(at, 0, Content::Known(3));
        builder.content(at, 1, Content::Zeroes);
        builder.push(9000, Action::Flush, Flags::default(), Extent::default());
        let workload = builder.finish("a test", Vec::new());
        let mut out = Vec::new();
        print(&workload, true, &mut out).expect("memory can be written");
        let text = String::from_utf8(out).expect("text");
        for wanted in [
            "workload of    a test",
            "write          1, 8192 bytes",
            "zeros          1 blocks",
            "different      1 of",
            "0 us  write sync fua sector 8 + 16 #",
            "2 us  flush\n",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }
}
