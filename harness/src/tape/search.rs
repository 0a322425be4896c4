//! Finds the one instruction of a tape with which something happens, by replaying it with stops.
//!
//! A replay only goes forward, but each is the same as the last. So the first looks now and then, and the next ones look
//! more often between the last stop before and the first one after.

/// Instructions between the stops of the first replay: a quarter of a second of a guest's time.
const FIRST_STRIDE: u64 = 1 << 25;

/// Stops of each later replay at most. A stop takes some milliseconds, a replay half a minute.
const STOPS: u64 = 512;

/// What is known of where it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Search {
    /// It has not happened when so many instructions are executed.
    before: u64,
    /// It has by then.
    by: Option<u64>,
}

impl Search {
    pub(super) fn new() -> Self {
        Self {
            before: 0,
            by: None,
        }
    }

    /// The instruction with which it happens, counted from 0: so many are executed before it.
    pub(super) fn found(&self) -> Option<u64> {
        (self.by == Some(self.before + 1)).then_some(self.before)
    }

    /// Where the next replay is to stop, in order. The last one is known to be behind it, if anything is.
    pub(super) fn stops(&self) -> impl Iterator<Item = u64> + use<> {
        let (before, by) = (self.before, self.by.unwrap_or(u64::MAX));
        let stride = match self.by {
            None => FIRST_STRIDE,
            Some(by) => (by - before).div_ceil(STOPS).max(1),
        };
        (1..)
            .map_while(move |number: u64| before.checked_add(stride.checked_mul(number)?))
            .take_while(move |stop| *stop < by)
    }

    /// Whether a replay to the end of the tape saw it nowhere.
    pub(super) fn is_empty(&self) -> bool {
        self.by.is_none()
    }

    /// Takes what was seen at a stop.
    pub(super) fn learn(&mut self, at: u64, happened: bool) {
        if happened {
            self.by = Some(self.by.map_or(at, |by| by.min(at)));
        } else {
            self.before = self.before.max(at);
        }
    }

    /// Forgets where it had not happened yet: what happens is seen a little late on a busy host.
    pub(super) fn widen(&mut self) {
        self.before = self.before.saturating_sub(FIRST_STRIDE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replays until it is found; gives how many there were, and the most stops of one.
    fn replays(event: u64) -> (u32, usize) {
        let mut search = Search::new();
        let (mut replays, mut most) = (0, 0);
        while search.found().is_none() {
            let mut stops = 0;
            for stop in search.stops() {
                stops += 1;
                let happened = stop > event;
                search.learn(stop, happened);
                if happened {
                    break;
                }
            }
            replays += 1;
            most = most.max(stops);
            assert!(replays < 10, "{search:?}");
        }
        assert_eq!(search.found(), Some(event));
        (replays, most)
    }

    /// Goal: wherever it happens it is found, in four replays that stop no more often than they may.
    #[test]
    fn every_instruction_is_found() {
        let events = [
            0,
            1,
            511,
            512,
            FIRST_STRIDE - 1,
            FIRST_STRIDE,
            2_987_654_321,
        ];
        for event in events {
            let (replays, most) = replays(event);
            assert!(replays <= 4, "{event}: {replays}");
            assert!(most as u64 <= STOPS, "{event}: {most}");
        }
    }

    #[test]
    fn a_search_that_was_misled_begins_further_ahead() {
        let mut search = Search::new();
        search.learn(3 * FIRST_STRIDE, false);
        search.learn(3 * FIRST_STRIDE + 10, true);
        search.widen();
        assert_eq!(
            search.stops().next(),
            Some(2 * FIRST_STRIDE + FIRST_STRIDE.div_ceil(STOPS) + 1)
        );
    }
}
