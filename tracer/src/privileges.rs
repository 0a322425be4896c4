//! What is kept of this process' privileges once the programs are attached.
//!
//! To load and attach takes nearly all that root has. What comes after reads a ring buffer, asks maps for counters and writes
//! to a file that is open; a defect in that must not be one of root's.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

/// Gives up every capability but the one by which maps are read, and every way to come by another one. Of this thread: there
/// is no other.
///
/// # Errors
/// When the kernel does not let go of them, which no kernel refuses.
pub fn give_up() -> io::Result<()> {
    set_no_new_privs(true)?;
    let kept = kept(capabilities(None)?.permitted);
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// Up to 5.18, where the system call is closed to users, even the reading of an open map is.
fn kept(permitted: CapabilitySet) -> CapabilitySet {
    let either = [CapabilitySet::BPF, CapabilitySet::SYS_ADMIN];
    let first = either.into_iter().find(|one| permitted.contains(*one));
    first.unwrap_or(CapabilitySet::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_capability_is_kept_at_most() {
        assert_eq!(kept(CapabilitySet::all()), CapabilitySet::BPF);
        let old = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE;
        assert_eq!(kept(old), CapabilitySet::SYS_ADMIN);
        assert_eq!(kept(CapabilitySet::CHOWN), CapabilitySet::empty());
    }

    /// A thread of its own, whose capabilities end with it.
    #[test]
    fn nothing_else_is_left_and_nothing_comes_back() {
        let left = std::thread::spawn(|| {
            give_up().unwrap();
            let held = capabilities(None).unwrap();
            (
                held.effective | held.permitted | held.inheritable,
                rustix::thread::no_new_privs(),
            )
        });
        let (held, closed) = left.join().unwrap();
        assert!(CapabilitySet::BPF.contains(held), "{held:?}");
        assert!(closed.unwrap());
    }
}
