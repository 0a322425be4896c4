//! Finds events that are missing though no counter of the kernel says so.
//!
//! A kernel may keep every BPF program from running while certain tasks are current; an interrupt
//! that completes a request then passes unseen, and counts as no miss. What is left is the order of
//! events itself: a request is issued, then completed part by part, and only then issued with
//! another bio.

use rustc_hash::FxHashMap;

use crate::event::IoId;

/// Requests of which the state is known; a machine has some thousands.
const MAX_REQUESTS: usize = 1 << 20;

#[derive(Debug)]
struct Request {
    bio: IoId,
    /// Bytes that have not been completed.
    left: u32,
}

/// The requests of a recording, by their address in the kernel.
#[derive(Debug, Default)]
pub struct Pairing {
    requests: FxHashMap<u64, Request>,
    missing: u64,
}

impl Pairing {
    /// A request with its first bio goes to the driver. The same again is a second try.
    pub fn issued(&mut self, request: u64, bio: IoId, bytes: u32) {
        if self.requests.len() >= MAX_REQUESTS {
            self.requests.clear();
        }
        let before = self.requests.insert(request, Request { bio, left: bytes });
        if before.is_some_and(|before| before.left > 0 && before.bio != bio) {
            self.missing += 1;
        }
    }

    /// Bytes of a request are done. Of requests that were issued before the recording nothing is
    /// known, nor of what has no content.
    pub fn completed(&mut self, request: u64, bytes: u32) {
        let Some(known) = self.requests.get_mut(&request) else {
            return;
        };
        if known.left == 0 && bytes > 0 {
            self.missing += 1;
        }
        known.left = known.left.saturating_sub(bytes);
    }

    /// Issues and completions that must have been, and are not there.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Requests that were issued and are not complete: under way, or their completion is missing.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.requests
            .values()
            .filter(|request| request.left > 0)
            .count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: u64 = 0x2000;

    fn after(steps: impl FnOnce(&mut Pairing)) -> (u64, u64) {
        let mut pairing = Pairing::default();
        steps(&mut pairing);
        (pairing.missing(), pairing.open())
    }

    #[test]
    fn a_request_used_again_and_again_misses_nothing() {
        let found = after(|pairing| {
            for bio in 1..10 {
                pairing.issued(REQUEST, IoId(bio), 8192);
                pairing.completed(REQUEST, 4096);
                pairing.completed(REQUEST, 4096);
            }
        });
        assert_eq!(found, (0, 0));
    }

    #[test]
    fn a_second_try_is_no_loss() {
        let found = after(|pairing| {
            pairing.issued(REQUEST, IoId(1), 8192);
            pairing.completed(REQUEST, 4096);
            pairing.issued(REQUEST, IoId(1), 4096);
        });
        assert_eq!(found, (0, 1));
    }

    #[test]
    fn another_bio_without_a_completion_before_is_a_loss() {
        let found = after(|pairing| {
            pairing.issued(REQUEST, IoId(1), 4096);
            pairing.issued(REQUEST, IoId(2), 4096);
        });
        assert_eq!(found, (1, 1));
    }

    #[test]
    fn a_second_completion_without_an_issue_is_a_loss() {
        let found = after(|pairing| {
            pairing.issued(REQUEST, IoId(1), 4096);
            pairing.completed(REQUEST, 4096);
            pairing.completed(REQUEST, 4096);
        });
        assert_eq!(found, (1, 0));
    }

    #[test]
    fn what_began_before_the_recording_is_no_loss() {
        let found = after(|pairing| {
            pairing.completed(REQUEST, 4096);
            pairing.completed(REQUEST, 4096);
        });
        assert_eq!(found, (0, 0));
    }

    #[test]
    fn a_flush_has_nothing_to_pair() {
        let found = after(|pairing| {
            pairing.issued(REQUEST, IoId(0), 0);
            pairing.issued(REQUEST, IoId(0), 0);
            pairing.completed(REQUEST, 0);
        });
        assert_eq!(found, (0, 0));
    }
}
