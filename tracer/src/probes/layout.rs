//! Where the running kernel maps all memory, and where it keeps its `struct page`s; needed to read
//! the content of I/O. The method is described in `bpf/layout.h`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun};
use cowbird_events::kernel::KernelFacts;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::pipe::{IoSliceRaw, SpliceFlags, pipe, vmsplice};
use rustix::rand::{GetRandomFlags, getrandom};

use super::error::{ProbeError, map_error};
use super::programs::program;

const PROGRAM: &str = "find_layout";
const PAGE_BYTES: usize = 4096;

/// `struct layout` in `bpf/layout.h`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Exchange {
    address: u64,
    content: [u64; 2],
    pipe: u32,
    found: u32,
    page_offset_base: u64,
    vmemmap_base: u64,
    top: u64,
    frame: u64,
}

// SAFETY: repr(C) with 64 bytes of integers: every bit pattern is valid and there is no padding.
unsafe impl aya::Pod for Exchange {}

/// A page of random content that is also in a pipe.
struct KnownPage {
    address: *mut u8,
    content: [u64; 2],
    reader: OwnedFd,
    _writer: OwnedFd,
}

impl KnownPage {
    fn new() -> io::Result<Self> {
        let mut content = [0_u8; 16];
        getrandom(&mut content, GetRandomFlags::empty())?;
        let (reader, writer) = pipe()?;
        // SAFETY: a new anonymous mapping, which nothing else uses.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                PAGE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?
        .cast::<u8>();
        let page = Self {
            address,
            content: [word(&content, 0), word(&content, 8)],
            reader,
            _writer: writer,
        };
        // SAFETY: the mapping is writable, larger than the content and ours alone.
        unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), address, content.len()) };
        let whole = IoSliceRaw::from_slice(
            // SAFETY: the mapping is readable, of that length, and lives as long as `page`, which
            // owns the pipe that now refers to it.
            unsafe { std::slice::from_raw_parts(address, PAGE_BYTES) },
        );
        // SAFETY: as above; the pipe only ever reads the page.
        unsafe { vmsplice(&page._writer, &[whole], SpliceFlags::empty()) }?;
        Ok(page)
    }
}

impl Drop for KnownPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and nothing refers to it after this. It cannot
        // fail for a mapping that exists.
        let _ = unsafe { munmap(self.address.cast(), PAGE_BYTES) };
    }
}

fn word(bytes: &[u8; 16], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

/// Finds it out and leaves it in the map of the programs.
///
/// # Errors
/// When the kernel's structures are not as expected, or no place fits.
pub fn find(ebpf: &mut Ebpf, facts: &KernelFacts) -> Result<(), ProbeError> {
    if let Some(obstacle) = &facts.fingerprint_obstacle {
        return Err(ProbeError::Fingerprints(obstacle.clone()));
    }
    let page = KnownPage::new()
        .map_err(|error| ProbeError::Fingerprints(format!("a page in a pipe: {error}")))?;
    let question = Exchange {
        address: page.address as u64,
        content: page.content,
        pipe: page.reader.as_raw_fd().cast_unsigned(),
        ..Exchange::default()
    };
    layouts(ebpf)?
        .set(0, question, 0)
        .map_err(map_error("layouts"))?;
    let finder: &mut RawTracePoint = program(ebpf, PROGRAM)?;
    let failed = |operation| {
        move |reason| ProbeError::Program {
            operation,
            program: PROGRAM.to_owned(),
            reason: Box::new(reason),
        }
    };
    finder.load().map_err(failed("load"))?;
    finder
        .test_run(RawTracePointRunOptions::default())
        .map_err(failed("run"))?;
    let answer = layouts(ebpf)?.get(&0, 0).map_err(map_error("layouts"))?;
    match answer.found {
        0 => Err(ProbeError::Fingerprints(
            "the map of all memory was not found".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn layouts(ebpf: &mut Ebpf) -> Result<Array<&mut MapData, Exchange>, ProbeError> {
    let map = ebpf
        .map_mut("layouts")
        .ok_or_else(|| ProbeError::Missing("map layouts".to_owned()))?;
    Array::try_from(map).map_err(map_error("layouts"))
}
