//! The page of cases: by subject, in the order of the results.

use anyhow::Result;
use cowbird_cases::begin;
use cowbird_cases::info::CaseInfo;
use cowbird_harness::catalogue::{groups, recorded_case};
use cowbird_host::nature::{FurtherDisk, OriginKind};
use cowbird_session::input::CaseInput;
use cowbird_vm::disks::Bus;
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use super::page::{code, head, table};
use crate::commands::lists::word;

/// Decides nothing here: disks do not depend on it.
const SEED: u64 = 1;

/// Unit of a disk of which nothing is said, bytes.
const USUAL_BLOCK_BYTES: u32 = 512;

pub(super) fn page() -> Result<String> {
    let mut text = head(
        "Cases",
        "The cases by subject, in the order of the results. A kernel that lacks a driver that a case needs makes the cell \
         `unsupported`, never a pass. Each case is in a file of `harness/cases/src` or `harness/adversity/src`, under its name.",
    );
    for group in groups() {
        let about = group.subject.about();
        text += &format!("\n## {}\n", about.title);
        if !about.see.is_empty() {
            let links = about
                .see
                .iter()
                .map(|see| format!("[{}](../{})", see.what, see.page));
            text += &format!("\nSee {}.\n", links.collect::<Vec<_>>().join("; "));
        }
        let rows = group.cases.iter().map(|case| {
            Ok([
                code(case.name),
                word(&case.tier)?,
                disks(case),
                case.summary.to_owned(),
            ])
        });
        text += &table(COLUMNS, rows.collect::<Result<Vec<_>>>()?);
    }
    let recorded = recorded_case();
    text += "\n## What was recorded elsewhere\n";
    text += &table(
        COLUMNS,
        [[
            code(recorded.name),
            code("--workload"),
            disks(recorded),
            recorded.summary.to_owned(),
        ]],
    );
    Ok(text)
}

const COLUMNS: [&str; 4] = ["case", "tier", "origin and disks", "what it is for"];

/// What a case begins with, in words. What it builds on its disks is not in it.
fn disks(case: &CaseInfo) -> String {
    let context = begin::context(case, SEED, &CaseInput::USUAL, None);
    let text = describe(context.layout());
    match case.topology {
        None => text,
        Some(topology) => format!("topology *{}*; {text}", topology.name),
    }
}

fn describe(layout: &Layout) -> String {
    let origin = layout.snapshot_origin();
    if layout.origin().sectors == 0 {
        return "as large as its scripts or its workload need".to_owned();
    }
    let kind = match layout.kind {
        OriginKind::Partition => "partition",
        OriginKind::WholeDisk => "whole disk",
        OriginKind::Mirror => "mirror of two disks",
        OriginKind::Encrypted => "encrypted partition",
    };
    let content = layout.filesystem.map_or("raw", |kind| kind.name());
    let mut parts = vec![format!("{kind}, {content}, {}", size(origin.sectors))];
    parts.extend(match layout.bus {
        Bus::Virtio => None,
        Bus::Scsi => Some("SCSI".to_owned()),
        Bus::Nvme => Some("NVMe".to_owned()),
    });
    if layout.logical_block_bytes != USUAL_BLOCK_BYTES {
        parts.push(format!(
            "logical blocks of {} bytes",
            layout.logical_block_bytes
        ));
    }
    if layout.cow_disk.is_some() {
        parts.push("a disk for the COW file".to_owned());
    }
    parts.extend(match layout.further() {
        FurtherDisk::None => None,
        FurtherDisk::SecondVolume => Some("a second volume".to_owned()),
        FurtherDisk::Copy => Some("a copy of the disk".to_owned()),
    });
    if let Some(mib) = layout.memory_mib {
        parts.push(format!("{mib} MiB of memory"));
    }
    parts.join("; ")
}

/// A size in MiB, or in GiB from 10 of these on, rounded down.
fn size(sectors: u32) -> String {
    let mib = sectors / MIB_SECTORS;
    match mib {
        0 => format!("{sectors} sectors"),
        1..10_240 => format!("{mib} MiB"),
        _ => format!("{} GiB", mib / 1024),
    }
}
