//! Every way in which content reaches a device and comes back, block by block.
//!
//! Each way has a region of the device to itself and writes each sector once, so what a
//! fingerprint must be is known from its sector alone. The fingerprints of a way must cover what
//! was written once and nothing twice. Where bios are split, and so how much is whole blocks, is
//! the kernel's affair.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use cowbird_events::devices;
use cowbird_events::event::{Kind, Op, Record};
use cowbird_outside::say;
use rustix::fs::{Advice, fadvise};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use xxhash_rust::xxh64::xxh64;

use crate::recording::Recording;
use crate::target::{BLOCK, Buffer, SECTOR, content, open_buffered, open_direct};

const MIB: usize = 1 << 20;
const WRITERS: usize = 4;

/// A part of the device, in bytes.
#[derive(Clone, Copy)]
struct Region {
    start: usize,
    length: usize,
}

impl Region {
    const fn at_mib(start: usize, length: usize) -> Self {
        Self {
            start: start * MIB,
            length,
        }
    }
}

/// A way to write.
struct Way {
    name: &'static str,
    region: Region,
    write: fn(&str, Region) -> Result<()>,
}

const WAYS: [Way; 6] = [
    Way {
        name: "direct, 4 KiB, 4 writers",
        region: Region::at_mib(0, 2 * MIB),
        write: direct_blocks,
    },
    Way {
        name: "direct, 4 MiB at once",
        region: Region::at_mib(4, 8 * MIB),
        write: |device, region| direct(device, region, 4 * MIB, 0),
    },
    Way {
        name: "direct, 64 KiB from a misaligned buffer",
        region: Region::at_mib(16, 2 * MIB),
        write: |device, region| direct(device, region, 16 * BLOCK, SECTOR),
    },
    Way {
        name: "direct, 1 MiB from a misaligned buffer",
        region: Region::at_mib(20, 4 * MIB),
        write: |device, region| direct(device, region, MIB, 3 * SECTOR),
    },
    Way {
        name: "through the page cache",
        region: Region::at_mib(28, 4 * MIB),
        write: buffered,
    },
    Way {
        name: "direct from a mapped file",
        region: Region::at_mib(36, MIB),
        write: mapped,
    },
];

/// Sectors that do not fill blocks: where in the region of pieces, and how many.
const PIECES: [(usize, usize); 4] = [(1, 1), (11, 3), (23, 9), (40, 17)];
const PIECES_REGION: Region = Region::at_mib(44, 64 * SECTOR);

fn direct(device: &str, region: Region, step: usize, behind: usize) -> Result<()> {
    let file = open_direct(device)?;
    for at in (region.start..region.start + region.length).step_by(step) {
        file.write_all_at(&Buffer::of(at / SECTOR, step, behind), at as u64)?;
    }
    Ok(())
}

fn direct_blocks(device: &str, region: Region) -> Result<()> {
    let share = region.length / WRITERS;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let part = Region {
                    start: region.start + writer * share,
                    length: share,
                };
                scope.spawn(move || direct(device, part, BLOCK, 0))
            })
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().unwrap_or_else(|_| panic!("a writer failed")))
    })
}

fn buffered(device: &str, region: Region) -> Result<()> {
    let file = open_buffered(device)?;
    file.write_all_at(
        &content(region.start / SECTOR, region.length),
        region.start as u64,
    )?;
    Ok(file.sync_all()?)
}

/// Pages that belong to a file, not to this process.
fn mapped(device: &str, region: Region) -> Result<()> {
    let path = std::env::temp_dir().join(format!("trial-{}.pages", std::process::id()));
    let source = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    source.write_all_at(&content(region.start / SECTOR, region.length), 0)?;
    // SAFETY: a new mapping of a file that nobody else has; it is read within its length, and
    // unmapped behind its last use.
    unsafe {
        let pages = mmap(
            std::ptr::null_mut(),
            region.length,
            ProtFlags::READ,
            MapFlags::SHARED,
            source.as_fd(),
            0,
        )?;
        let bytes = std::slice::from_raw_parts(pages.cast::<u8>(), region.length);
        let written = open_direct(device)?.write_all_at(bytes, region.start as u64);
        munmap(pages, region.length)?;
        Ok(written?)
    }
}

fn pieces(device: &str) -> Result<()> {
    let file = open_direct(device)?;
    for (first, sectors) in PIECES {
        let at = PIECES_REGION.start + first * SECTOR;
        file.write_all_at(&Buffer::of(at / SECTOR, sectors * SECTOR, 0), at as u64)?;
    }
    Ok(())
}

fn read_direct(device: &str, region: Region, step: usize, behind: usize) -> Result<()> {
    let file = open_direct(device)?;
    for at in (region.start..region.start + region.length).step_by(step) {
        let mut buffer = Buffer::new(step, behind);
        file.read_exact_at(&mut buffer, at as u64)?;
        ensure!(
            *buffer == content(at / SECTOR, step),
            "{device} lost what was written at byte {at}"
        );
    }
    Ok(())
}

fn read_buffered(device: &str, region: Region) -> Result<()> {
    let file = open_buffered(device)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut bytes = vec![0; region.length];
    file.read_exact_at(&mut bytes, region.start as u64)?;
    Ok(())
}

/// Fingerprints of one operation on one device.
struct Seen<'a> {
    records: Vec<&'a Record>,
    /// First sector of the device on its disk.
    start: usize,
}

impl Seen<'_> {
    /// Checks those within a part of the device: right, and each sector once.
    fn check(&self, name: &str, region: Region) -> Result<()> {
        let (first, sectors) = (region.start / SECTOR, region.length / SECTOR);
        let mut covered = vec![false; sectors];
        let (mut whole, mut parts) = (0, 0);
        for record in &self.records {
            let at = usize::try_from(record.sector)? - self.start;
            if at < first || at >= first + sectors {
                continue;
            }
            let bytes = record.amount as usize;
            let expected = xxh64(&content(at, bytes), 0);
            ensure!(
                record.second == expected,
                "{name}: sector {at} + {bytes} bytes has fingerprint {:016x}, not {expected:016x}",
                record.second
            );
            for (sector, seen) in covered
                .iter_mut()
                .enumerate()
                .skip(at - first)
                .take(bytes / SECTOR)
            {
                ensure!(
                    !std::mem::replace(seen, true),
                    "{name}: sector {} is fingerprinted twice",
                    sector + first
                );
            }
            match bytes {
                BLOCK => whole += 1,
                _ => parts += 1,
            }
        }
        if let Some(missing) = covered.iter().position(|seen| !seen) {
            anyhow::bail!("{name}: sector {} has no fingerprint", missing + first);
        }
        say!(
            "{name}: {} KiB right, {whole} blocks and {parts} parts of blocks",
            region.length >> 10
        );
        Ok(())
    }
}

fn seen<'a>(records: &'a [Record], op: Op, start: u64) -> Result<Seen<'a>> {
    let wanted = |record: &&Record| record.kind == Kind::Fingerprint && record.op == op;
    Ok(Seen {
        records: records.iter().filter(wanted).collect(),
        start: usize::try_from(start)?,
    })
}

/// Runs the trial.
pub fn run(tracer: &Path, device: &str) -> Result<()> {
    let start = devices::find(device)?.start_sector;
    let recording = Recording::start(tracer, device, &["--fingerprints", "--plain-fingerprints"])?;
    for way in &WAYS {
        (way.write)(device, way.region).with_context(|| format!("write {}", way.name))?;
    }
    pieces(device)?;
    let written = recording.stop()?;
    let writes = seen(&written.records, Op::Write, start)?;
    for way in &WAYS {
        writes.check(way.name, way.region)?;
    }
    for (first, sectors) in PIECES {
        let part = Region {
            start: PIECES_REGION.start + first * SECTOR,
            length: sectors * SECTOR,
        };
        writes.check("direct, parts of blocks", part)?;
    }

    let (blocks, large, cached) = (WAYS[0].region, WAYS[1].region, WAYS[4].region);
    let recording = Recording::start(tracer, device, &["--fingerprints", "--plain-fingerprints"])?;
    read_direct(device, blocks, BLOCK, 0)?;
    read_direct(device, large, 4 * MIB, SECTOR)?;
    read_buffered(device, cached)?;
    let read = recording.stop()?;
    let reads = seen(&read.records, Op::Read, start)?;
    reads.check("read direct, 4 KiB", blocks)?;
    reads.check("read direct, 4 MiB to a misaligned buffer", large)?;
    reads.check("read through the page cache", cached)?;
    say!(
        "{} and {} fingerprints, {} skipped runs rescued",
        writes.records.len(),
        reads.records.len(),
        written.footer.rescued + read.footer.rescued
    );
    Ok(())
}
