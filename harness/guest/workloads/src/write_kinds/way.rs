//! How each kind of write is done.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use cowbird_guest_system::async_io::{Aio, Part, Uring};
use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_guest_system::files::{open_direct, write_durably};
use cowbird_guest_system::sys::Mapping;
use cowbird_proto::message::WriteKindsSpec;
use rustix::mm::{MapFlags, ProtFlags};

use super::area::{Area, bytes_of};
use super::elsewhere::Elsewhere;
use super::kind::Kind;

/// Cached writes are written back after so many.
const SYNC_EVERY: u64 = 4;

/// The writer in another mount namespace mounts its filesystem again after so many operations.
const REMOUNT_EVERY: u64 = 8;

/// How a writer does its kind of write.
pub(super) enum Way {
    Cached(File),
    Mapped(Mapping),
    Direct(File),
    Aio(File, Aio),
    Uring(File, Uring),
    Elsewhere(Elsewhere),
}

impl Way {
    pub(super) fn open(kind: Kind, spec: &WriteKindsSpec, area: &Area) -> GuestResult<Self> {
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

    pub(super) fn write(
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
    pub(super) fn settle(self) -> GuestResult<()> {
        match self {
            Self::Cached(file) => file.sync_all().context("write back"),
            Self::Mapped(mapping) => mapping.sync().context("write back"),
            Self::Elsewhere(elsewhere) => elsewhere.leave(),
            _ => Ok(()),
        }
    }
}
