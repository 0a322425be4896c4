//! Swap areas.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use crate::error::{Context, GuestResult, failure};
use crate::files::size_of;

/// Bytes of a page, which is the unit of a swap area.
const PAGE_BYTES: usize = 4096;

/// What ends the first page of a swap area.
const SIGNATURE: &[u8] = b"SWAPSPACE2";

/// Where its version and its last page are noted, bytes.
const VERSION_AT: usize = 1024;
const LAST_PAGE_AT: usize = 1028;

/// What `mkswap` writes.
pub fn make_swap(device: &str) -> GuestResult<()> {
    let pages = size_of(device)? / PAGE_BYTES as u64;
    let last = u32::try_from(pages.saturating_sub(1))
        .map_err(|_| failure(format!("{device} is too large to swap to")))?;
    let mut page = vec![0; PAGE_BYTES];
    page[VERSION_AT..VERSION_AT + 4].copy_from_slice(&1u32.to_ne_bytes());
    page[LAST_PAGE_AT..LAST_PAGE_AT + 4].copy_from_slice(&last.to_ne_bytes());
    page[PAGE_BYTES - SIGNATURE.len()..].copy_from_slice(SIGNATURE);
    let write = || format!("make {device} a swap area");
    let file = OpenOptions::new().write(true).open(device);
    let file = file.context(write())?;
    file.write_all_at(&page, 0).context(write())?;
    file.sync_all().context(write())
}
