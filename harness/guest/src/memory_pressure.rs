//! Somebody else who wants all of the machine's memory.

use std::sync::{Mutex, PoisonError};

use cowbird_guest_system::error::{GuestResult, failure};
use cowbird_guest_system::files;

/// Memory is taken in such pieces, so that the look at what is left is never far behind.
const PIECE_BYTES: usize = 1 << 20;

/// Pages of memory; each is written to, or the kernel would not give it.
const PAGE_BYTES: usize = 4096;

/// Where the kernel says what is left.
const MEMINFO: &str = "/proc/meminfo";

/// The line of it.
const AVAILABLE: &str = "MemAvailable:";

/// The memory that is taken.
#[derive(Default)]
pub struct MemoryPressure {
    pieces: Mutex<Vec<Vec<u8>>>,
}

impl MemoryPressure {
    /// Takes memory until less than so much is available.
    pub fn take(&self, leave_mib: u64) -> GuestResult<()> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        while available_kib(&files::read_text(MEMINFO)?)? / 1024 > leave_mib {
            let mut piece = vec![0; PIECE_BYTES];
            piece
                .iter_mut()
                .step_by(PAGE_BYTES)
                .for_each(|byte| *byte = 1);
            pieces.push(piece);
        }
        Ok(())
    }

    /// Gives all of it back.
    pub fn give(&self) {
        self.pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

fn available_kib(meminfo: &str) -> GuestResult<u64> {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix(AVAILABLE))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .ok_or_else(|| failure(format!("{MEMINFO} has no {AVAILABLE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_found() {
        let text = "MemTotal:        1000432 kB\nMemAvailable:     812340 kB\nBuffers: 0 kB\n";
        assert_eq!(available_kib(text), Ok(812_340));
        assert!(available_kib("MemTotal: 1 kB").is_err());
    }
}
