//! Writers of large direct writes, each on a stretch of its own: to a block device, or to files of a filesystem that
//! nobody else sees. A write that is longer than the disk takes at once is split on its way, and where the disk has few
//! requests its writer sleeps in the middle of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files::{open_direct, size_of};
use cowbird_guest_system::mounts::{self, leave_namespace};
use cowbird_guest_system::sys::DirectBuffer;
use cowbird_proto::message::{
    MountApi, MountSpec, Operation, StreamTarget, StreamsSpec, WriteMode,
};
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};
use rustix::fs::{FallocateFlags, fallocate};

use super::progress::count;
use super::shared::{Body, Parts, Shared};

/// Identity in the sectors that this workload writes.
const IDENTITY: u64 = 0x57E4;

/// Where the filesystem is mounted that nobody else sees.
const UNSEEN: &str = "/mnt/unseen";

/// What one writer writes to.
struct Stretch {
    file: File,
    /// Where it begins, bytes.
    at: u64,
}

/// Prepares one thread for each writer.
pub fn prepare(spec: StreamsSpec) -> GuestResult<Parts> {
    let write = u64::from(spec.write_bytes);
    if write == 0 || !spec.stretch_bytes.is_multiple_of(write) || spec.stretch_bytes == 0 {
        return Err(failure("a stretch is a whole number of writes"));
    }
    let stretches = match &spec.target {
        StreamTarget::Devices(devices) => on_devices(devices, &spec)?,
        StreamTarget::Unseen { device, fstype } => unseen(device, fstype, &spec)?,
    };
    let spec = Arc::new(spec);
    let threads = (0..).zip(stretches).map(|(writer, stretch)| {
        let spec = Arc::clone(&spec);
        let body: Body = Box::new(move |shared| run(shared, &spec, writer, &stretch));
        body
    });
    Ok(Parts {
        golden: Vec::new(),
        threads: threads.collect(),
    })
}

fn on_devices(devices: &[String], spec: &StreamsSpec) -> GuestResult<Vec<Stretch>> {
    let count = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    if count == 0 {
        return Err(failure("there is no device to write to"));
    }
    let needed = u64::from(spec.writers.div_ceil(count)) * spec.stretch_bytes;
    for device in devices {
        if size_of(device)? < needed {
            return Err(failure(format!("{device} has less than {needed} bytes")));
        }
    }
    let stretch = |writer: u32| {
        Ok(Stretch {
            file: open_direct(&devices[(writer % count) as usize], true)?,
            at: u64::from(writer / count) * spec.stretch_bytes,
        })
    };
    (0..spec.writers).map(stretch).collect()
}

/// Only a thread that has ended saw the mount. The filesystem goes when the last file is closed.
fn unseen(device: &str, fstype: &str, spec: &StreamsSpec) -> GuestResult<Vec<Stretch>> {
    fs::create_dir_all(UNSEEN).context(format_args!("make {UNSEEN}"))?;
    let mount = MountSpec {
        source: device.to_owned(),
        target: UNSEEN.to_owned(),
        fstype: fstype.to_owned(),
        options: String::new(),
        read_only: false,
        api: MountApi::Mount,
    };
    let (writers, bytes) = (spec.writers, spec.stretch_bytes);
    let opening = std::thread::spawn(move || {
        leave_namespace()?;
        mounts::mount(&mount)?;
        let stretch = |writer| {
            let path = format!("{UNSEEN}/{writer}");
            File::create(&path).context(format_args!("make {path}"))?;
            let file = open_direct(&path, true)?;
            fallocate(&file, FallocateFlags::empty(), 0, bytes)
                .context(format_args!("allocate {path}"))?;
            Ok(Stretch { file, at: 0 })
        };
        (0..writers).map(stretch).collect()
    });
    opening
        .join()
        .map_err(|_| failure("the thread that mounts panicked"))?
}

fn run(
    shared: &Arc<Shared>,
    spec: &StreamsSpec,
    writer: u32,
    stretch: &Stretch,
) -> GuestResult<()> {
    let mut journal = shared.journal(writer);
    let length = u64::from(spec.write_bytes);
    let mut buffer = DirectBuffer::new(spec.write_bytes as usize);
    let mut generation = 0;
    while !shared.stopping() {
        let at = generation * length % spec.stretch_bytes;
        generation += 1;
        let offset = stretch.at + at;
        let first = SectorIdentity {
            identity: IDENTITY,
            sector: offset / SECTOR_BYTES as u64,
            generation,
            seed: spec.seed,
            writer,
        };
        sector::fill(first, &mut buffer);
        let what = Operation::Write {
            identity: IDENTITY,
            offset,
            length,
            generation,
            mode: WriteMode::Direct,
        };
        journal.run(what, || stretch.file.write_all_at(&buffer, offset))?;
        count(&shared.progress.bytes_written, length);
    }
    Ok(())
}
