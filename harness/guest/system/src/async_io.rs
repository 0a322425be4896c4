//! Writes that are submitted together and complete later: the kernel's native AIO, and `io_uring`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use crate::sys::Mapping;

/// Writes that may be in flight at once.
pub const MAX_PARTS: usize = 32;

/// A part of a buffer, and where in the file it goes; bytes.
#[derive(Clone, Debug)]
pub struct Part {
    /// In the buffer.
    pub bytes: Range<usize>,
    /// In the file.
    pub offset: u64,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A write that moved fewer bytes than it was given, or failed.
fn check_moved(result: i64, part: &Part) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::from_raw_os_error(
            i32::try_from(-result).unwrap_or(libc::EIO),
        ));
    }
    if result.unsigned_abs() as usize != part.bytes.len() {
        return Err(io::Error::other(format!(
            "only {result} of {} bytes were written",
            part.bytes.len()
        )));
    }
    Ok(())
}

/// Every part must lie in the buffer before its address is given away.
fn check_parts(buffer: &[u8], parts: &[Part]) -> io::Result<()> {
    let fit = parts.len() <= MAX_PARTS
        && parts
            .iter()
            .all(|part| part.bytes.start <= part.bytes.end && part.bytes.end <= buffer.len());
    if fit {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidInput))
    }
}

/// Native AIO (`io_submit`).
pub struct Aio {
    context: libc::c_ulong,
}

/// `IOCB_CMD_PWRITE`.
const IOCB_PWRITE: u16 = 1;

/// `struct iocb` of `linux/aio_abi.h`, little endian.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: u64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event` of `linux/aio_abi.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

impl Aio {
    /// A context for [`MAX_PARTS`] writes.
    pub fn new() -> io::Result<Self> {
        Self::with_room(MAX_PARTS)
    }

    fn with_room(writes: usize) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes one number, which is the context, to the address.
        check(unsafe {
            libc::syscall(libc::SYS_io_setup, writes, std::ptr::from_mut(&mut context))
        })?;
        Ok(Self { context })
    }

    /// Submits all parts with one call, so that the block layer may merge neighbours, and waits
    /// for all of them.
    pub fn write(&mut self, file: &File, buffer: &[u8], parts: &[Part]) -> io::Result<()> {
        self.submit(file, buffer, parts)?;
        self.wait(parts)
    }

    /// Submits all parts with one call. The buffer must stay as it is until [`Self::wait`] returns.
    pub fn submit(&mut self, file: &File, buffer: &[u8], parts: &[Part]) -> io::Result<()> {
        check_parts(buffer, parts)?;
        let mut blocks: Vec<Iocb> = (0_u64..)
            .zip(parts)
            .map(|(index, part)| Iocb {
                data: index,
                opcode: IOCB_PWRITE,
                fd: file.as_raw_fd().unsigned_abs(),
                buffer: buffer[part.bytes.clone()].as_ptr() as u64,
                bytes: part.bytes.len() as u64,
                offset: part.offset,
                ..Iocb::default()
            })
            .collect();
        let pointers: Vec<*mut Iocb> = blocks.iter_mut().map(std::ptr::from_mut).collect();
        // SAFETY: io_submit reads the blocks that the pointers name, which live until it returns;
        // each names a part of `buffer`, which the caller keeps until the write has ended.
        let submitted = check(unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.context,
                pointers.len(),
                pointers.as_ptr(),
            )
        })?;
        if submitted.unsigned_abs() as usize != parts.len() {
            // What was submitted must end before its buffer may go.
            self.reap(submitted.unsigned_abs() as usize)?;
            return Err(io::Error::other(format!(
                "only {submitted} of {} writes were taken",
                parts.len()
            )));
        }
        Ok(())
    }

    /// Waits for all the parts that were submitted.
    pub fn wait(&mut self, parts: &[Part]) -> io::Result<()> {
        let events = self.reap(parts.len())?;
        events
            .iter()
            .try_for_each(|event| match parts.get(event.data as usize) {
                Some(part) => check_moved(event.result, part),
                None => Err(io::Error::other("a write that nobody has submitted ended")),
            })
    }

    fn reap(&mut self, count: usize) -> io::Result<Vec<IoEvent>> {
        let mut events = vec![IoEvent::default(); count];
        let mut done = 0;
        while done < count {
            let rest = &mut events[done..];
            // SAFETY: io_getevents writes at most `rest.len()` events to the address, which has
            // room for them; without a timeout it waits for so many.
            let result = check(unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    rest.len(),
                    rest.len(),
                    rest.as_mut_ptr(),
                    std::ptr::null::<libc::timespec>(),
                )
            });
            match result {
                Ok(more) => done += more.unsigned_abs() as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and io_destroy waits for what is in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

/// `RWF_NOWAIT`.
const NO_WAIT: u32 = 8;

/// Native AIO with many writes in flight, each submitted and reaped by itself.
pub struct Queue {
    aio: Aio,
    depth: usize,
    in_flight: usize,
}

impl Queue {
    /// With room for so many writes.
    pub fn new(depth: usize) -> io::Result<Self> {
        let aio = Aio::with_room(depth)?;
        Ok(Self {
            aio,
            depth,
            in_flight: 0,
        })
    }

    /// Submits one write, which ends with `EAGAIN` rather than that the caller waits, unless it may. The buffer must
    /// stay as it is until [`Self::reap`] has given its number.
    pub fn submit(
        &mut self,
        file: &File,
        buffer: &[u8],
        offset: u64,
        number: u64,
        may_wait: bool,
    ) -> io::Result<()> {
        if self.in_flight == self.depth {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut block = Iocb {
            data: number,
            opcode: IOCB_PWRITE,
            rw_flags: if may_wait { 0 } else { NO_WAIT },
            fd: file.as_raw_fd().unsigned_abs(),
            buffer: buffer.as_ptr() as u64,
            bytes: buffer.len() as u64,
            offset,
            ..Iocb::default()
        };
        let mut pointer = std::ptr::from_mut(&mut block);
        // SAFETY: io_submit reads the one block that the pointer names, which lives until it returns; it names a
        // buffer that the caller keeps until the write has ended.
        let submitted = check(unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.aio.context,
                1,
                std::ptr::from_mut(&mut pointer),
            )
        })?;
        if submitted != 1 {
            return Err(io::Error::other("the write was not taken"));
        }
        self.in_flight += 1;
        Ok(())
    }

    /// The numbers of the writes that have ended, and how; waits for one if it shall and one is in flight.
    pub fn reap(&mut self, wait: bool) -> io::Result<Vec<(u64, io::Result<()>)>> {
        if self.in_flight == 0 {
            return Ok(Vec::new());
        }
        let least = usize::from(wait);
        let mut events = vec![IoEvent::default(); self.in_flight];
        let mut no_time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timeout = match least {
            0 => std::ptr::from_mut(&mut no_time),
            _ => std::ptr::null_mut(),
        };
        // SAFETY: io_getevents writes at most `events.len()` events to the address, which has room for them, and
        // reads a timespec that lives across the call, or none.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.aio.context,
                least,
                events.len(),
                events.as_mut_ptr(),
                timeout,
            )
        });
        let count = match result {
            Ok(count) => count.unsigned_abs() as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        self.in_flight -= count;
        events.truncate(count);
        let end = |event: &IoEvent| match event.result {
            moved if moved > 0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(
                i32::try_from(-error).unwrap_or(libc::EIO),
            )),
        };
        Ok(events
            .iter()
            .map(|event| (event.data, end(event)))
            .collect())
    }
}

/// `IORING_OP_WRITE`.
const URING_WRITE: u8 = 23;

/// `IORING_ENTER_GETEVENTS`.
const URING_GET_EVENTS: u32 = 1;

/// `IORING_OFF_SQ_RING` and `IORING_OFF_SQES`.
const URING_RINGS_AT: u64 = 0;
const URING_ENTRIES_AT: u64 = 0x1000_0000;

/// Words of `struct io_uring_params` of `linux/io_uring.h`, which is 120 bytes long.
const URING_PARAMETER_WORDS: usize = 30;

/// Where in those words the offsets of the submission ring and of the completion ring begin.
const URING_SQ_OFFSETS: usize = 10;
const URING_CQ_OFFSETS: usize = 20;

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Submission {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    bytes: u32,
    rw_flags: u32,
    data: u64,
    rest: [u64; 3],
}

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completion {
    data: u64,
    result: i32,
    flags: u32,
}

/// An `io_uring` that this thread alone uses.
pub struct Uring {
    fd: OwnedFd,
    rings: Mapping,
    entries: Mapping,
    /// Byte offsets in `rings`: tail, mask and array of submissions; head, tail, mask and entries
    /// of completions.
    submit_tail: usize,
    submit_mask: usize,
    submit_array: usize,
    complete_head: usize,
    complete_tail: usize,
    complete_mask: usize,
    complete_entries: usize,
}

impl Uring {
    /// A ring for [`MAX_PARTS`] writes.
    pub fn new() -> io::Result<Self> {
        let mut words = [0_u32; URING_PARAMETER_WORDS];
        // SAFETY: io_uring_setup reads and writes one struct io_uring_params, whose size this is.
        let fd = check(unsafe {
            libc::syscall(libc::SYS_io_uring_setup, MAX_PARTS, words.as_mut_ptr())
        })?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let at = |base: usize, index: usize| words[base + index] as usize;
        let (submissions, completions) = (words[0] as usize, words[1] as usize);
        let submit_array = at(URING_SQ_OFFSETS, 6);
        let complete_entries = at(URING_CQ_OFFSETS, 5);
        // From 5.4 on both rings lie in one mapping.
        let ring_bytes = (submit_array + submissions * size_of::<u32>())
            .max(complete_entries + completions * size_of::<Completion>());
        let map = |offset: u64, bytes: usize| {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::SHARED | MapFlags::POPULATE;
            Mapping::new(&fd, offset, bytes, protection, flags)
        };
        Ok(Self {
            rings: map(URING_RINGS_AT, ring_bytes)?,
            entries: map(URING_ENTRIES_AT, submissions * size_of::<Submission>())?,
            submit_tail: at(URING_SQ_OFFSETS, 1),
            submit_mask: at(URING_SQ_OFFSETS, 2),
            submit_array,
            complete_head: at(URING_CQ_OFFSETS, 0),
            complete_tail: at(URING_CQ_OFFSETS, 1),
            complete_mask: at(URING_CQ_OFFSETS, 2),
            complete_entries,
            fd,
        })
    }

    /// A counter of a ring, which the kernel changes under us.
    fn counter(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the kernel gave the offset of a naturally aligned 32-bit number in this mapping,
        // which lives as long as `self`; all accesses to it are atomic.
        unsafe { AtomicU32::from_ptr(self.at::<u32>(&self.rings, offset).as_ptr()) }
    }

    fn at<T>(&self, mapping: &Mapping, offset: usize) -> NonNull<T> {
        mapping.address(offset, size_of::<T>()).cast()
    }

    /// Submits all parts with one call and waits for all of them.
    pub fn write(&mut self, file: &File, buffer: &[u8], parts: &[Part]) -> io::Result<()> {
        check_parts(buffer, parts)?;
        let mask = self.counter(self.submit_mask).load(Ordering::Relaxed);
        let mut tail = self.counter(self.submit_tail).load(Ordering::Relaxed);
        for (index, part) in (0_u64..).zip(parts) {
            let slot = tail & mask;
            let entry = Submission {
                opcode: URING_WRITE,
                fd: file.as_raw_fd(),
                offset: part.offset,
                address: buffer[part.bytes.clone()].as_ptr() as u64,
                bytes: u32::try_from(part.bytes.len()).map_err(io::Error::other)?,
                data: index,
                ..Submission::default()
            };
            let place = self.at(&self.entries, slot as usize * size_of::<Submission>());
            // SAFETY: the slot is ours until the tail below says otherwise, and lies in the mapping.
            unsafe { place.write(entry) };
            self.counter(self.submit_array + slot as usize * size_of::<u32>())
                .store(slot, Ordering::Relaxed);
            tail = tail.wrapping_add(1);
        }
        self.counter(self.submit_tail)
            .store(tail, Ordering::Release);
        let mut submit = parts.len();
        let mut done = 0;
        let mut result = Ok(());
        // Until all have ended, whatever fails: the buffer belongs to the kernel so long.
        while done < parts.len() {
            submit -= self.enter(submit)?;
            while let Some(completion) = self.take() {
                done += 1;
                let part = parts.get(completion.data as usize);
                let moved = part.map_or(Ok(()), |part| check_moved(completion.result.into(), part));
                result = result.and(moved);
            }
        }
        result
    }

    fn enter(&self, submit: usize) -> io::Result<usize> {
        // SAFETY: io_uring_enter without a signal mask takes only numbers; the entries that it
        // submits name parts of a buffer that the caller keeps until they have ended.
        let entered = check(unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd.as_raw_fd(),
                submit,
                1,
                URING_GET_EVENTS,
                std::ptr::null::<libc::sigset_t>(),
                0,
            )
        });
        match entered {
            Ok(count) => Ok(count.unsigned_abs() as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn take(&self) -> Option<Completion> {
        let head = self.counter(self.complete_head).load(Ordering::Relaxed);
        if head == self.counter(self.complete_tail).load(Ordering::Acquire) {
            return None;
        }
        let slot = head & self.counter(self.complete_mask).load(Ordering::Relaxed);
        let offset = self.complete_entries + slot as usize * size_of::<Completion>();
        // SAFETY: the entry is before the tail, so the kernel has written it and leaves it alone
        // until the head passes it.
        let completion = unsafe { self.at::<Completion>(&self.rings, offset).read() };
        self.counter(self.complete_head)
            .store(head.wrapping_add(1), Ordering::Release);
        Some(completion)
    }
}
