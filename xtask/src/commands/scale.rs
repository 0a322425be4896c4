//! `scale`: what the oracle takes for a large origin, against `sha256sum` and `cmp` on the same files.
//!
//! A sparse disk, a witness that scatters writes over it, and the image that is right are made; then the
//! oracle verifies the image, with its time and the most memory that this program had meanwhile. One block is
//! then made wrong, and must be found: an oracle that looks at nothing is fast.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use cowbird_checks::mapped::DISCARD_MODEL;
use cowbird_checks::sparse::{self, SparseFiles};
use cowbird_host::scratch::Scratch;
use cowbird_model::{
    BlockSet, Epoch, EpochHeader, MarkerKey, Report, SECTOR_BYTES, Sector, SectorRange,
};

use crate::host::rooms::Rooms;
use crate::ui::{Ui, print};

/// Length of one write.
const WRITE_BYTES: u64 = 64 << 10;

/// Behind the origin the disk has room for the epoch header.
const BEHIND_BYTES: u64 = 1 << 20;

/// The oracle's memory may not exceed this, MiB.
const MOST_MEMORY_MIB: u64 = 512;

/// The series of the snapshot that never was.
const UUID: [u8; 16] = *b"as large as that";

/// Magic and version of the witness log; `cowbird_model::witness` describes the format.
const LOG_MAGIC: u64 = 0x006a_7366_7773_6872;
const LOG_VERSION: u64 = 1;

/// Arguments of `scale`.
#[derive(Clone, Debug, Args)]
pub struct ScaleArgs {
    /// Size of the origin, which is sparse
    #[arg(long, value_name = "GIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub origin_gib: u64,
    /// What is written to it; it is on disk three times
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub written_mib: u64,
    /// Folder for the files, which are removed in the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub within: PathBuf,
}

/// Runs the command; the value is the exit code.
pub fn command(args: &ScaleArgs, ui: &Arc<Ui>) -> Result<u8> {
    let dir = Scratch::within(&args.within)?;
    let stand = Stand {
        dir: dir.path().to_owned(),
        origin_bytes: args.origin_gib << 30,
        writes: (args.written_mib << 20) / WRITE_BYTES,
    };
    if stand.writes == 0 || stand.writes * WRITE_BYTES > stand.origin_bytes {
        bail!("as much as that cannot be written to an origin of that size; see --written-mib");
    }
    Rooms {
        out: Some((&args.within, stand.bytes())),
        target: false,
        instead: "give another folder with --within",
        ..Rooms::default()
    }
    .check()?;
    ui.line("writing disk, witness and image");
    stand.make()?;

    reset_peak()?;
    let (report, oracle) = timed(|| stand.verify())?;
    let peak_mib = peak_mib()?;
    if report.blocks_bad != 0 {
        bail!(
            "the oracle says that the right image is wrong:\n{}",
            report.render(3)
        );
    }
    ui.line("the same with one wrong block");
    stand.damage()?;
    let found = stand.verify()?;
    if found.blocks_bad != 1 {
        bail!(
            "the oracle finds {} wrong blocks, there is 1",
            found.blocks_bad
        );
    }
    stand.repair()?;

    ui.line("sha256sum and cmp");
    let image = stand.image();
    let ((), sum_sparse) = timed(|| run("sha256sum", &[&image]))?;
    let ((), sum_dense) = timed(|| run("sha256sum", &[&stand.witness()]))?;
    let copy = stand.dir.join("copy.raw");
    run("cp", &[Path::new("--sparse=always"), &image, &copy])?;
    let ((), cmp) = timed(|| run("cmp", &[&image, &copy]))?;

    let written_mib = args.written_mib as f64;
    print(&format!(
        "an origin of {} GiB with {} MiB written in {} writes\n\
         oracle      {oracle:8.1} s   {:6.0} MiB/s of what was written, {peak_mib} MiB of memory at most\n\
         sha256sum   {sum_sparse:8.1} s   of the image with its holes; the oracle is {:.1} times as fast\n\
         sha256sum   {sum_dense:8.1} s   of the witness, which has none; the oracle is {:.1} times as fast\n\
         cmp         {cmp:8.1} s   of the image and a copy; the oracle is {:.1} times as fast\n",
        args.origin_gib,
        args.written_mib,
        stand.writes,
        written_mib / oracle,
        sum_sparse / oracle,
        sum_dense / oracle,
        cmp / oracle,
    ))?;
    if peak_mib > MOST_MEMORY_MIB {
        bail!(
            "the oracle had {peak_mib} MiB of memory, {MOST_MEMORY_MIB} are the most that it may have"
        );
    }
    Ok(0)
}

/// The files.
struct Stand {
    dir: PathBuf,
    origin_bytes: u64,
    writes: u64,
}

/// What filesystems need besides for sparse files of that size.
const SLACK_BYTES: u64 = 64 << 20;

impl Stand {
    /// What it takes on disk: image, witness, and a copy of the image.
    fn bytes(&self) -> u64 {
        self.writes * WRITE_BYTES * 3 + SLACK_BYTES
    }

    fn base(&self) -> PathBuf {
        self.dir.join("base.raw")
    }

    fn image(&self) -> PathBuf {
        self.dir.join("image.raw")
    }

    fn witness(&self) -> PathBuf {
        self.dir.join("witness.log")
    }

    fn make(&self) -> Result<()> {
        let make = || -> std::io::Result<()> {
            File::create(self.base())?.set_len(self.origin_bytes + BEHIND_BYTES)?;
            let image = File::create(self.image())?;
            image.set_len(self.origin_bytes)?;
            let mut log = BufWriter::with_capacity(1 << 20, File::create(self.witness())?);
            log.write_all(&self.superblock())?;
            let mut content = vec![0; WRITE_BYTES as usize];
            for write in 0..self.writes {
                let place = self.place(write);
                fill(write, &mut content);
                image.write_all_at(&content, place)?;
                write_entry(&mut log, place, &content)?;
            }
            write_entry(&mut log, self.origin_bytes, &self.header().encode())?;
            log.into_inner()?.sync_all()?;
            image.sync_all()
        };
        make().with_context(|| format!("cannot write to {}", self.dir.display()))
    }

    /// Scattered over the origin, each write at a place of its own: a step that has no divisor in common with
    /// the number of places visits all of them.
    fn place(&self, write: u64) -> u64 {
        let places = self.origin_bytes / WRITE_BYTES;
        let stride = (places as f64 * 0.618) as u64 | 1;
        let step = (stride..).find(|step| gcd(*step, places) == 1).unwrap_or(1);
        (u128::from(write) * u128::from(step) % u128::from(places)) as u64 * WRITE_BYTES
    }

    fn superblock(&self) -> [u8; SECTOR_BYTES] {
        let mut sector = [0; SECTOR_BYTES];
        sector[0..8].copy_from_slice(&LOG_MAGIC.to_le_bytes());
        sector[8..16].copy_from_slice(&LOG_VERSION.to_le_bytes());
        sector[16..24].copy_from_slice(&(self.writes + 1).to_le_bytes());
        sector[24..28].copy_from_slice(&(SECTOR_BYTES as u32).to_le_bytes());
        sector
    }

    fn header(&self) -> EpochHeader {
        EpochHeader {
            uuid: UUID,
            epoch: Epoch(1),
            origin_sectors: self.origin_bytes / SECTOR_BYTES as u64,
            cow_slots: 0,
            flags: 0,
        }
    }

    fn verify(&self) -> Result<Report> {
        let key = MarkerKey {
            uuid: UUID,
            epoch: Epoch(1),
        };
        let (base, witness, image) = (self.base(), self.witness(), self.image());
        let files = SparseFiles {
            base: &base,
            witness: &witness,
            image: &image,
        };
        let origin = SectorRange::new(Sector(0), self.origin_bytes / SECTOR_BYTES as u64);
        Ok(sparse::verify(
            files,
            origin,
            &key,
            &BlockSet::new(),
            DISCARD_MODEL,
        )?)
    }

    /// One byte of the last write.
    fn damage(&self) -> Result<()> {
        self.put(&[!self.last_byte()])
    }

    fn repair(&self) -> Result<()> {
        self.put(&[self.last_byte()])
    }

    fn last_byte(&self) -> u8 {
        let mut content = vec![0; WRITE_BYTES as usize];
        fill(self.writes - 1, &mut content);
        content[WRITE_BYTES as usize - 1]
    }

    fn put(&self, byte: &[u8]) -> Result<()> {
        let place = self.place(self.writes - 1) + WRITE_BYTES - 1;
        let image = File::options().write(true).open(self.image());
        image
            .and_then(|image| image.write_all_at(byte, place))
            .with_context(|| format!("cannot write to {}", self.image().display()))
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Content that is of this write alone.
fn fill(write: u64, content: &mut [u8]) {
    let mut word = write.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for chunk in content.chunks_exact_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}

fn write_entry(log: &mut impl Write, place: u64, content: &[u8]) -> std::io::Result<()> {
    let mut header = [0; SECTOR_BYTES];
    let sectors = (content.len() / SECTOR_BYTES) as u64;
    header[0..8].copy_from_slice(&(place / SECTOR_BYTES as u64).to_le_bytes());
    header[8..16].copy_from_slice(&sectors.to_le_bytes());
    log.write_all(&header)?;
    log.write_all(content)
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed().as_secs_f64()))
}

fn run(program: &str, arguments: &[&Path]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed: {}", said.trim());
    }
    Ok(())
}

/// From now on the peak is counted anew; `proc(5)` has it under `clear_refs`.
fn reset_peak() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5")
        .context("cannot reset the peak of memory through /proc/self/clear_refs")
}

/// The most memory that this process had at once, mapped files included.
fn peak_mib() -> Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = number
        .and_then(|number| number.parse().ok())
        .context("/proc/self/status has no VmHWM")?;
    Ok(kib.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most that is made in a test, so that it takes no time: writes of an origin of 500 GB.
    const WRITES: u64 = 200;

    fn stand(dir: &Path) -> Stand {
        Stand {
            dir: dir.to_owned(),
            origin_bytes: 500 << 30,
            writes: WRITES,
        }
    }

    /// Goal: a sparse origin of 500 GB is verified whole in less memory than the bound, and one wrong byte of
    /// it is found. Method: sparse files of that size; the peak of the whole test program.
    #[test]
    fn half_a_terabyte_fits() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let stand = stand(dir.path());
        stand.make().expect("sparse files");
        let right = stand.verify().expect("the files fit");
        assert_eq!((right.blocks_checked, right.blocks_bad), (500 << 18, 0));
        stand.damage().expect("the image is there");
        let wrong = stand.verify().expect("the files fit");
        assert_eq!(wrong.blocks_bad, 1);
        let place = stand.place(WRITES - 1) + WRITE_BYTES - 1;
        assert_eq!(wrong.bad[0].block.0, place / 4096);
        // A block that must be a hole is data.
        stand.repair().expect("the image is there");
        let image = File::options().write(true).open(stand.image());
        let empty = stand.place(WRITES) + 5;
        let write = image.and_then(|image| image.write_all_at(b"x", empty));
        write.expect("the image is there");
        let wrong = stand.verify().expect("the files fit");
        assert_eq!((wrong.blocks_bad, wrong.bad[0].block.0), (1, empty / 4096));
        let peak = peak_mib().expect("this is Linux");
        assert!(peak < MOST_MEMORY_MIB, "{peak} MiB");
    }

    #[test]
    fn no_place_is_written_twice() {
        let dir = PathBuf::new();
        let stand = Stand {
            dir,
            origin_bytes: 4096 * WRITE_BYTES,
            writes: 4096,
        };
        let mut places: Vec<u64> = (0..4096).map(|write| stand.place(write)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 4096);
    }
}
