//! How others who have a lock of apt's are waited for.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;

/// Between two tries for a lock.
const LOCK_POLL: Duration = Duration::from_secs(1);

/// What apt-get says of a lock that somebody else has.
const LOCKED: [&str; 2] = ["Could not get lock", "Unable to acquire the dpkg"];

/// What apt-get said of the lock for want of which it failed, if it was that.
#[must_use]
pub fn lock_of_others(said: &str) -> Option<&str> {
    let lock = said
        .lines()
        .find(|line| LOCKED.iter().any(|words| line.contains(words)))?;
    Some(lock.trim_start_matches("E: "))
}

/// Tries again until nobody else has a lock that is needed. `attempt` returns what it did, and what apt-get said of a lock if it
/// failed for want of it; `say` is called once if that must be waited for.
///
/// # Errors
/// Those of `attempt`, and [`Error::Locked`] after `limit`.
pub fn wait_for_locks<T, E: From<Error>>(
    limit: Duration,
    say: &dyn Fn(&str),
    mut attempt: impl FnMut() -> Result<(T, Option<String>), E>,
) -> Result<T, E> {
    let started = Instant::now();
    let mut said_so = false;
    loop {
        let (done, lock) = attempt()?;
        let Some(lock) = lock else {
            return Ok(done);
        };
        if started.elapsed() >= limit {
            return Err(Error::Locked { lock, limit }.into());
        }
        if !std::mem::replace(&mut said_so, true) {
            say(&format!(
                "another program has a lock of apt's ({lock}); waiting for it, for at most {} s",
                limit.as_secs()
            ));
        }
        thread::sleep(LOCK_POLL);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// Goal: a lock of others is waited for, said once, and not for ever. Method: an attempt that is refused twice, and one that
    /// always is.
    #[test]
    fn locks_are_waited_for_within_the_limit() {
        let said = RefCell::new(Vec::new());
        let say = |text: &str| said.borrow_mut().push(text.to_owned());
        let tries = Cell::new(0);
        let attempt = |refused: u32| {
            tries.set(tries.get() + 1);
            let lock = lock_of_others("Reading\nE: Could not get lock /x/lock. It is held\n");
            Ok::<_, Error>((
                tries.get(),
                lock.filter(|_| tries.get() <= refused).map(str::to_owned),
            ))
        };
        let done = wait_for_locks(Duration::from_secs(60), &say, || attempt(2));
        assert_eq!(done.unwrap(), 3);
        assert_eq!(said.borrow().len(), 1);
        let error = wait_for_locks(Duration::ZERO, &say, || attempt(u32::MAX)).unwrap_err();
        assert!(
            error.to_string().contains("(Could not get lock /x/lock."),
            "{error}"
        );
        assert_eq!(lock_of_others("E: Unable to fetch some archives"), None);
    }
}
