//! Options that several commands have.

use clap::ValueEnum;
use cowbird_vm::accel::Accel;
use cowbird_vm::probe::AccelRequest;

/// How much is run: each tier includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Tier {
    /// On every change.
    Quick,
    /// Once a day.
    Daily,
    /// Before a release.
    Full,
}

impl From<Tier> for cowbird_images::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Quick => Self::Quick,
            Tier::Daily => Self::Daily,
            Tier::Full => Self::Full,
        }
    }
}

/// How QEMU runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccelChoice {
    /// KVM if a test boot succeeds, otherwise TCG; success is cached for a day, failure for ten minutes.
    Auto,
    /// Hardware virtualisation, tried whatever was found out before.
    Kvm,
    /// Software emulation.
    Tcg,
}

impl From<AccelChoice> for AccelRequest {
    fn from(choice: AccelChoice) -> Self {
        match choice {
            AccelChoice::Auto => Self::Auto,
            AccelChoice::Kvm => Self::Kvm,
            AccelChoice::Tcg => Self::Tcg,
        }
    }
}

/// What is asked for where a cell is run again: what the user says, else what it ran with.
pub fn accel_again(choice: Option<AccelChoice>, before: Accel) -> AccelRequest {
    choice.map_or(
        match before {
            Accel::Kvm => AccelRequest::Kvm,
            Accel::Tcg => AccelRequest::Tcg,
        },
        AccelRequest::from,
    )
}
