//! One writer for every kind of write that the kernel knows, all at the same time.
//!
//! Each writer has a zone of the device, or a file of its own in a mounted filesystem, and sweeps it
//! in order: after the snapshot instant nearly every operation is the first to touch its blocks. What
//! a kernel or a device cannot do is left out, and said. Once every writer has done enough after the
//! instant, the workload says that it is finished, and goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cowbird_proto::message::{KindsSpec, Operation, WriteMode};
use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::{ReadWriteFlags, pwritev2};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::chaser::Chaser;
use super::fs_churn::place_of;
use super::journal::Scribe;
use super::{Body, Parts, Shared};
use crate::async_io::{Aio, MAX_PARTS, Part, Uring};
use crate::error::{Context, GuestResult, failure};
use crate::ops::{open_direct, size_of};
use crate::sys::{self, DirectBuffer, Mapping};

/// Identity of the first writer's sectors; the others follow.
const IDENTITY: u64 = 0x417D_0000;

/// Sectors of most zones: 2 MiB.
const ZONE_SECTORS: u64 = 4096;

/// Sectors of the zone of the large writes: 8 MiB.
const LARGE_ZONE_SECTORS: u64 = 16384;

/// Longest write but for the large ones, sectors: 64 KiB.
const MAX_WRITE_SECTORS: u64 = 128;

/// Large writes, sectors: 2 to 4 MiB. Longer than a request may be, so the block layer splits them.
const LARGE_SECTORS: (u64, u64) = (4096, 8192);

/// Parts of an asynchronous write that is not of tiny ones.
const ASYNC_PARTS: u64 = 8;

/// Sectors left out between two writes of a sweep at most.
const MAX_GAP_SECTORS: u64 = 8;

/// Cached writes are written back after so many.
const SYNC_EVERY: u64 = 4;

/// The writer in another mount namespace mounts its filesystem again after so many operations.
const REMOUNT_EVERY: u64 = 8;

/// A filesystem cannot be mounted while it is frozen, which it is for a moment at the instant, and not
/// unmounted while a process that another thread starts has not let go of our descriptors yet. Both
/// are tried again so often, after such a pause.
const MOUNT_TRIES: u32 = 250;
const MOUNT_PAUSE: Duration = Duration::from_millis(20);

/// Operations of every writer after the instant until the workload is finished.
const ENOUGH: u64 = 24;

/// Pause between two operations of a writer: there are many writers and two CPUs.
const PAUSE: Duration = Duration::from_millis(2);

/// Threads that read on the snapshot what the writers overwrite.
const CHASERS: u32 = 3;

/// Bytes written at once when a file is made.
const PREPARE_BYTES: usize = 1 << 20;

/// Mount point in the other mount namespace.
const OTHER_MOUNT: &str = "/mnt/other-namespace";

/// A kind of write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Through the page cache.
    Buffered,
    /// Through a shared mapping.
    Mapped,
    /// `O_DIRECT`.
    Direct,
    /// `io_submit` of several.
    Aio,
    /// `io_uring` of several.
    Uring,
    /// `O_DIRECT` with `RWF_DSYNC`: FUA where the disk has it.
    DataSync,
    /// `O_DIRECT`, then a flush.
    Flushed,
    /// `BLKDISCARD`, or `FITRIM` of a filesystem.
    Discard,
    /// `FALLOC_FL_PUNCH_HOLE`.
    PunchHole,
    /// `BLKZEROOUT`, which only devices have.
    ZeroOut,
    /// `FALLOC_FL_ZERO_RANGE`.
    ZeroRange,
    /// Megabytes at once.
    Large,
    /// Many neighbours of one logical block each, submitted together.
    Tiny,
    /// Odd sizes at odd places, shorter than a block or not much longer.
    Odd,
    /// From another mount namespace.
    Namespace,
}

const KINDS: [Kind; 15] = [
    Kind::Buffered,
    Kind::Mapped,
    Kind::Direct,
    Kind::Aio,
    Kind::Uring,
    Kind::DataSync,
    Kind::Flushed,
    Kind::Discard,
    Kind::PunchHole,
    Kind::ZeroOut,
    Kind::ZeroRange,
    Kind::Large,
    Kind::Tiny,
    Kind::Odd,
    Kind::Namespace,
];

impl Kind {
    fn zone_sectors(self) -> u64 {
        if self == Self::Large {
            LARGE_ZONE_SECTORS
        } else {
            ZONE_SECTORS
        }
    }

    /// Sectors of an operation whose length was drawn from [`Self::length`].
    fn sectors(self, drawn: u64, unit: u64) -> u64 {
        if self == Self::Tiny {
            drawn * unit
        } else {
            drawn.next_multiple_of(unit)
        }
    }

    /// Length of an operation at least and at most: logical blocks of tiny ones, else sectors.
    fn length(self) -> (u64, u64) {
        match self {
            Self::Large => LARGE_SECTORS,
            Self::Tiny => (MAX_PARTS as u64, MAX_PARTS as u64),
            Self::Odd => (1, 11),
            Self::Aio | Self::Uring => (ASYNC_PARTS, MAX_WRITE_SECTORS),
            _ => (1, MAX_WRITE_SECTORS),
        }
    }

    fn mode(self) -> WriteMode {
        match self {
            Self::Buffered => WriteMode::Buffered,
            Self::Mapped => WriteMode::Mapped,
            Self::Aio | Self::Tiny => WriteMode::Aio,
            Self::Uring => WriteMode::Uring,
            Self::DataSync => WriteMode::DataSync,
            Self::Flushed => WriteMode::Flushed,
            _ => WriteMode::Direct,
        }
    }

    /// Whether the write is on its way to the disk when the call is made, so that it can be chased.
    fn is_prompt(self) -> bool {
        !matches!(self, Self::Buffered | Self::Mapped)
    }
}

/// Prepares the threads.
pub fn prepare(spec: KindsSpec) -> GuestResult<Parts> {
    if spec.fstype.is_some() {
        fs::create_dir_all(&spec.target).context(format_args!("make {}", spec.target))?;
    }
    let device = open_direct(&spec.device, false)?;
    let unit = sys::logical_block_bytes(&device)
        .context(format_args!("logical block size of {}", spec.device))?
        / SECTOR_BYTES as u64;
    let kinds: Vec<Kind> = KINDS
        .into_iter()
        .filter(|kind| spec.fstype.is_none() || *kind != Kind::ZeroOut)
        .collect();
    let chasers: Vec<Arc<Chaser>> = (0..CHASERS)
        .map(|reader| Arc::new(Chaser::new(kinds.len() as u32 + reader, spec.seed)))
        .collect();
    let busy = Arc::new(AtomicU32::new(kinds.len() as u32));
    let mut threads: Vec<Body> = Vec::new();
    let mut start = 0;
    for (writer, kind) in (0_u32..).zip(kinds) {
        let area = Area::prepare(&spec, kind, writer, unit, start)?;
        if spec.fstype.is_none() {
            start = area.zone.end;
        }
        let chaser = Arc::clone(&chasers[(writer % CHASERS) as usize]);
        let (spec, busy) = (spec.clone(), Arc::clone(&busy));
        threads.push(Box::new(move |shared| {
            run(shared, spec, kind, writer, area, chaser, &busy)
        }));
    }
    for chaser in chasers {
        threads.push(Box::new(move |shared| chaser.run(shared)));
    }
    Ok(Parts {
        golden: Vec::new(),
        threads,
    })
}

/// Where one writer writes.
struct Area {
    /// File or device.
    path: String,
    is_file: bool,
    /// Sectors of the file or device.
    zone: Range<u64>,
    /// Sectors of a logical block: every write is a whole number of it.
    unit: u64,
}

impl Area {
    fn prepare(
        spec: &KindsSpec,
        kind: Kind,
        writer: u32,
        unit: u64,
        start: u64,
    ) -> GuestResult<Self> {
        if spec.fstype.is_none() {
            let zone = start..start + kind.zone_sectors();
            let path = spec.target.clone();
            if size_of(&path)? < zone.end * SECTOR_BYTES as u64 {
                return Err(failure(format!("{path} is too small for all writers")));
            }
            return Ok(Self {
                path,
                is_file: false,
                zone,
                unit,
            });
        }
        let area = Self {
            path: format!("{}/{kind:?}", spec.target),
            is_file: true,
            zone: 0..kind.zone_sectors(),
            unit,
        };
        area.make_file(spec.seed, writer)
            .context(format_args!("make {}", area.path))?;
        Ok(area)
    }

    /// A file that is written once, so that it is overwritten in place.
    fn make_file(&self, seed: u64, writer: u32) -> io::Result<()> {
        let file = File::create(&self.path)?;
        let mut chunk = vec![0; PREPARE_BYTES];
        let chunk_sectors = (PREPARE_BYTES / SECTOR_BYTES) as u64;
        for sector in (0..self.zone.end).step_by(chunk_sectors as usize) {
            sector::fill(identity(seed, writer, sector, 0), &mut chunk);
            file.write_all_at(&chunk, sector * SECTOR_BYTES as u64)?;
        }
        file.sync_all()
    }
}

fn identity(seed: u64, writer: u32, sector: u64, generation: u64) -> SectorIdentity {
    SectorIdentity {
        identity: IDENTITY + u64::from(writer),
        sector,
        generation,
        seed,
        writer,
    }
}

/// How a writer does its kind of write.
enum Way {
    Cached(File),
    Mapped(Mapping),
    Direct(File),
    Aio(File, Aio),
    Uring(File, Uring),
    Elsewhere(Elsewhere),
}

/// One writer, to its end.
fn run(
    shared: &Arc<Shared>,
    spec: KindsSpec,
    kind: Kind,
    number: u32,
    area: Area,
    chaser: Arc<Chaser>,
    busy: &AtomicU32,
) -> GuestResult<()> {
    let done_enough = || {
        if busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.finished.store(true, Ordering::Release);
        }
    };
    let way = match Way::open(kind, &spec, &area) {
        Ok(way) => way,
        Err(error) if is_lacking(error.errno) => {
            shared.leave_out(format!("{kind:?}: {}", error.message));
            done_enough();
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let longest = kind.sectors(kind.length().1, area.unit);
    let buffer = DirectBuffer::new(longest as usize * SECTOR_BYTES);
    buffer.use_large_pages();
    let mut writer = Writer {
        kind,
        number,
        rng: Rng::for_part(spec.seed, u64::from(number)),
        cursor: area.zone.start,
        generation: 0,
        scribe: shared.journal(number),
        spec,
        area,
        way,
        buffer,
        chaser,
    };
    let (mut after_instant, mut passed) = (0, false);
    while !shared.stopping() {
        if !passed && shared.epoch_has_passed() {
            passed = true;
            writer.cursor = writer.area.zone.start;
        }
        match writer.step(shared) {
            // Only the first can say that it is not there; afterwards it is a failure.
            Err(error) if writer.generation == 1 && is_lacking(error.errno) => {
                shared.leave_out(format!("{kind:?}: {}", error.message));
                done_enough();
                return Ok(());
            }
            done => done?,
        }
        if passed {
            after_instant += 1;
            if after_instant == ENOUGH {
                done_enough();
            }
        }
        std::thread::sleep(PAUSE);
    }
    writer.way.settle()
}

/// Whether an error says that the kernel, the filesystem or the device does not know an operation.
fn is_lacking(errno: Option<i32>) -> bool {
    matches!(
        errno,
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EPERM)
    )
}

struct Writer {
    kind: Kind,
    number: u32,
    spec: KindsSpec,
    area: Area,
    way: Way,
    rng: Rng,
    cursor: u64,
    generation: u64,
    scribe: Scribe,
    buffer: DirectBuffer,
    chaser: Arc<Chaser>,
}

impl Writer {
    /// The next range of the sweep, in sectors of the file or device.
    fn next_range(&mut self) -> Range<u64> {
        let unit = self.area.unit;
        let (least, most) = self.kind.length();
        let limit = 1 << self.rng.between(least.ilog2().into(), most.ilog2().into());
        let drawn = self.rng.between(least, limit.max(least));
        let sectors = self.kind.sectors(drawn, unit);
        let gap = self.rng.below(MAX_GAP_SECTORS / unit + 1) * unit;
        if self.cursor + gap + sectors > self.area.zone.end {
            self.cursor = self.area.zone.start;
        } else {
            self.cursor += gap;
        }
        let end = (self.cursor + sectors).min(self.area.zone.end);
        let range = self.cursor..end;
        self.cursor = end;
        range
    }

    fn step(&mut self, shared: &Shared) -> GuestResult<()> {
        let range = self.next_range();
        self.generation += 1;
        let (offset, length) = bytes_of(&range);
        if shared.epoch_has_passed() && self.kind.is_prompt() {
            self.chase(offset, length);
        }
        // What is zeroed or discarded has content, every other time of this sweep's own.
        let is_write = !self.kind_clears() || self.generation.is_multiple_of(2);
        if is_write {
            self.write(&range)?;
            Shared::count(&shared.bytes_written, length);
        } else {
            self.clear(offset, length)?;
        }
        Ok(())
    }

    fn kind_clears(&self) -> bool {
        matches!(
            self.kind,
            Kind::Discard | Kind::PunchHole | Kind::ZeroOut | Kind::ZeroRange
        )
    }

    fn chase(&self, offset: u64, length: u64) {
        let place = match &self.way {
            Way::Direct(file) | Way::Aio(file, _) | Way::Uring(file, _) if self.area.is_file => {
                place_of(file, offset, length)
            }
            _ if self.area.is_file => None,
            _ => Some(offset..offset + length),
        };
        if let Some(place) = place {
            self.chaser.point_at(place);
        }
    }

    fn write(&mut self, range: &Range<u64>) -> GuestResult<()> {
        let (offset, length) = bytes_of(range);
        let content = &mut self.buffer[..length as usize];
        let first = identity(self.spec.seed, self.number, range.start, self.generation);
        sector::fill(first, content);
        let parts = split(
            &mut self.rng,
            self.kind,
            offset,
            content.len(),
            self.area.unit,
        );
        let what = Operation::Write {
            identity: first.identity,
            offset,
            length,
            generation: self.generation,
            mode: self.kind.mode(),
        };
        let (kind, way, generation) = (self.kind, &mut self.way, self.generation);
        self.scribe.run(what, || {
            way.write(kind, content, offset, &parts, generation)
        })
    }

    fn clear(&mut self, offset: u64, length: u64) -> GuestResult<()> {
        let what = match self.kind {
            Kind::Discard | Kind::PunchHole => Operation::Discard { offset, length },
            _ => Operation::ZeroOut { offset, length },
        };
        let (kind, is_file) = (self.kind, self.area.is_file);
        let Way::Direct(file) = &self.way else {
            return Err(failure(format!("{kind:?} without a file")));
        };
        self.scribe.run(what, || {
            match kind {
                Kind::Discard if is_file => sys::trim(file),
                Kind::Discard => sys::discard(file, offset, length),
                Kind::PunchHole => {
                    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(file, mode, offset, length)
                }
                Kind::ZeroOut => sys::zero_out(file, offset, length),
                _ => fallocate(file, FallocateFlags::ZERO_RANGE, offset, length),
            }
            .map_err(Into::into)
        })
    }
}

fn bytes_of(range: &Range<u64>) -> (u64, u64) {
    let sector = SECTOR_BYTES as u64;
    (range.start * sector, (range.end - range.start) * sector)
}

/// Cuts a write into parts: one logical block each for tiny ones, else at random places.
fn split(rng: &mut Rng, kind: Kind, offset: u64, bytes: usize, unit: u64) -> Vec<Part> {
    let block = unit as usize * SECTOR_BYTES;
    let longest = match kind {
        Kind::Tiny => block,
        Kind::Aio | Kind::Uring => (bytes / ASYNC_PARTS as usize).max(block) * 2,
        _ => bytes,
    };
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < bytes {
        let blocks = rng.between(1, (longest / block) as u64) as usize;
        let last = parts.len() + 1 == MAX_PARTS;
        let end = if last {
            bytes
        } else {
            (at + blocks * block).min(bytes)
        };
        parts.push(Part {
            bytes: at..end,
            offset: offset + at as u64,
        });
        at = end;
    }
    parts
}

impl Way {
    fn open(kind: Kind, spec: &KindsSpec, area: &Area) -> GuestResult<Self> {
        let direct = || open_direct(&area.path, true);
        let what = || format!("prepare {kind:?} of {}", area.path);
        Ok(match kind {
            Kind::Buffered => Self::Cached(
                OpenOptions::new()
                    .write(true)
                    .open(&area.path)
                    .context(what())?,
            ),
            Kind::Mapped => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&area.path)
                    .context(what())?;
                let (offset, bytes) = bytes_of(&area.zone);
                let mapping = Mapping::new(
                    &file,
                    offset,
                    bytes as usize,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED,
                );
                Self::Mapped(mapping.context(what())?)
            }
            Kind::Aio | Kind::Tiny => Self::Aio(direct()?, Aio::new().context(what())?),
            Kind::Uring => Self::Uring(direct()?, Uring::new().context(what())?),
            Kind::Namespace => Self::Elsewhere(Elsewhere::enter(spec, area)?),
            _ => Self::Direct(direct()?),
        })
    }

    fn write(
        &mut self,
        kind: Kind,
        content: &[u8],
        offset: u64,
        parts: &[Part],
        generation: u64,
    ) -> io::Result<()> {
        let sync_now = generation.is_multiple_of(SYNC_EVERY);
        match self {
            Self::Cached(file) => {
                file.write_all_at(content, offset)?;
                if sync_now { file.sync_data() } else { Ok(()) }
            }
            Self::Mapped(mapping) => {
                // The mapping begins where the zone begins.
                let start = mapping.offset_of(offset);
                mapping.store(start, content);
                if sync_now {
                    Ok(mapping.sync()?)
                } else {
                    Ok(())
                }
            }
            Self::Aio(file, aio) => aio.write(file, content, parts),
            Self::Uring(file, ring) => ring.write(file, content, parts),
            Self::Direct(file) if kind == Kind::DataSync => write_durably(file, content, offset),
            Self::Direct(file) => {
                file.write_all_at(content, offset)?;
                if kind == Kind::Flushed {
                    file.sync_data()?;
                }
                Ok(())
            }
            Self::Elsewhere(elsewhere) => {
                elsewhere.file()?.write_all_at(content, offset)?;
                if generation.is_multiple_of(REMOUNT_EVERY) {
                    elsewhere.remount()?;
                }
                Ok(())
            }
        }
    }

    /// Nothing may be left in the page cache.
    fn settle(self) -> GuestResult<()> {
        match self {
            Self::Cached(file) => file.sync_all().context("write back"),
            Self::Mapped(mapping) => mapping.sync().context("write back"),
            Self::Elsewhere(elsewhere) => elsewhere.leave(),
            _ => Ok(()),
        }
    }
}

/// A write that is on stable storage when it returns.
pub fn write_durably(file: &File, content: &[u8], offset: u64) -> io::Result<()> {
    let written = pwritev2(
        file,
        &[IoSlice::new(content)],
        offset,
        ReadWriteFlags::DSYNC,
    )?;
    if written == content.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

/// A mount namespace that this thread alone is in.
struct Elsewhere {
    /// Device and type of the filesystem that is mounted there.
    mounted: Option<(String, String)>,
    path: String,
    file: Option<File>,
}

impl Elsewhere {
    fn enter(spec: &KindsSpec, area: &Area) -> GuestResult<Self> {
        fs::create_dir_all(OTHER_MOUNT).context(format_args!("make {OTHER_MOUNT}"))?;
        // SAFETY: mounts and the working directory of this thread alone change; no descriptor and
        // no memory does.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
            .context("leave the mount namespace")?;
        let mounted = spec
            .fstype
            .as_ref()
            .map(|fstype| (spec.device.clone(), fstype.clone()));
        let below = area.path.strip_prefix(spec.target.as_str());
        let path = match &mounted {
            Some(_) => format!("{OTHER_MOUNT}{}", below_root(spec, below)),
            None => area.path.clone(),
        };
        let mut elsewhere = Self {
            mounted,
            path,
            file: None,
        };
        elsewhere.mount().context("mount in another namespace")?;
        Ok(elsewhere)
    }

    fn mount(&mut self) -> io::Result<()> {
        if let Some((device, fstype)) = &self.mounted {
            patiently(|| {
                let flags = MountFlags::NOATIME;
                rustix::mount::mount(device.as_str(), OTHER_MOUNT, fstype.as_str(), flags, None)
            })?;
        }
        let mut options = OpenOptions::new();
        options
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32);
        self.file = Some(options.open(&self.path)?);
        Ok(())
    }

    fn unmount(&mut self) -> io::Result<()> {
        self.file = None;
        if self.mounted.is_some() {
            patiently(|| rustix::mount::unmount(OTHER_MOUNT, UnmountFlags::empty()))?;
        }
        Ok(())
    }

    fn remount(&mut self) -> io::Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or(io::ErrorKind::NotFound.into())
    }

    fn leave(mut self) -> GuestResult<()> {
        self.unmount().context("unmount in another namespace")
    }
}

fn patiently(act: impl Fn() -> rustix::io::Result<()>) -> io::Result<()> {
    for _ in 1..MOUNT_TRIES {
        match act() {
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(MOUNT_PAUSE),
            done => return Ok(done?),
        }
    }
    Ok(act()?)
}

/// The path of a file from the root of its filesystem: the target is a directory of that root.
fn below_root(spec: &KindsSpec, below_target: Option<&str>) -> String {
    let directory = spec.target.rsplit('/').next().unwrap_or_default();
    format!("/{directory}{}", below_target.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the parts of a write are the write, each of whole logical blocks, and never too many.
    #[test]
    fn parts_cover_a_write_without_gap() {
        let mut rng = Rng::new(3);
        for kind in KINDS {
            for unit in [1, 8] {
                let (least, most) = kind.length();
                for drawn in [least, most, rng.between(least, most)] {
                    let bytes = kind.sectors(drawn, unit) as usize * SECTOR_BYTES;
                    let parts = split(&mut rng, kind, 4096, bytes, unit);
                    assert!(parts.len() <= MAX_PARTS, "{kind:?}");
                    let mut at = 0;
                    for part in &parts {
                        assert_eq!(part.bytes.start, at);
                        assert_eq!(part.offset, 4096 + at as u64);
                        let block = unit as usize * SECTOR_BYTES;
                        assert!(part.bytes.len().is_multiple_of(block) && !part.bytes.is_empty());
                        at = part.bytes.end;
                    }
                    assert_eq!(at, bytes, "{kind:?}");
                    assert!(kind != Kind::Tiny || parts.len() == MAX_PARTS);
                }
            }
        }
    }
}
