//! How QEMU executes a guest.

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
    /// The arguments of QEMU for it. On a tape is how many instructions one thread executed.
    #[must_use]
    pub fn arguments(self, taped: bool) -> [&'static str; 4] {
        match self {
            Self::Tcg if taped => ["-accel", "tcg,thread=single", "-cpu", "max,-cx16"],
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Without cmpxchg16b: with it, guests of 6.12 on two emulated CPUs double-fault now
            // and then under QEMU 7.2, with no module of ours loaded.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"],
        }
    }
}
