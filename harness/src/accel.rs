//! Acceleration: what QEMU executes the guest with.

use serde::{Deserialize, Serialize};

/// How QEMU executes the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The host's virtualisation.
    Kvm,
    /// Software emulation, one host thread per virtual CPU.
    Tcg,
}

impl Accel {
    /// The arguments of QEMU for it.
    #[must_use]
    pub fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Without cmpxchg16b: with it, guests of 6.12 on two emulated CPUs double-fault now
            // and then under QEMU 7.2, with no module of ours loaded.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"],
        }
    }
}
