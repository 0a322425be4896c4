//! Devices stacked on others.

mod device;
mod dm;
mod fault_injection;
mod loop_device;
mod md;
mod scanned;
mod spread;

use cowbird_guest_system::error::{GuestResult, failure};
use cowbird_proto::message::{Reply, StackKind};

pub use self::fault_injection::inject_faults;

use loop_device::{LO_DIRECT_IO, stack_loop, unstack_loop};

/// Stacks a device on others; answers the path of the new one.
pub fn stack(devices: &[String], kind: StackKind) -> GuestResult<Reply> {
    match (kind, devices) {
        (StackKind::Linear, [device]) => dm::linear(device, 1),
        (StackKind::Quarters, [device]) => dm::quarters(device),
        (StackKind::TwoPieces, [device]) => dm::linear(device, 2),
        (StackKind::Loop, [device]) => stack_loop(device, LO_DIRECT_IO),
        (StackKind::Scanned, [device]) => scanned::stack(device),
        (StackKind::Crypt, [device]) => dm::crypt(device, ""),
        (StackKind::CryptInline, [device]) => {
            dm::crypt(device, " 2 no_read_workqueue no_write_workqueue")
        }
        (StackKind::Striped, [first, second]) => dm::striped(first, second),
        (StackKind::Thin, [data, metadata]) => dm::thin(data, metadata),
        (StackKind::Mirror, devices) => md::mirror(devices),
        (StackKind::Parity, devices) => md::parity(devices),
        (StackKind::FaultInjection, [device]) => fault_injection::stack(device),
        (StackKind::Spread { number, sectors }, [device]) => {
            spread::spread(device, number, sectors)
        }
        (StackKind::Gathered { number, sectors }, [device]) => {
            spread::gather(device, number, sectors)
        }
        (StackKind::Many(count), [device]) => dm::many(device, count),
        (kind, devices) => Err(failure(format!("{kind:?} of {} devices", devices.len()))),
    }
    .map(Reply::Text)
}

/// Takes it off again.
pub fn unstack(kind: StackKind) -> GuestResult<()> {
    match kind {
        StackKind::Linear | StackKind::TwoPieces => dm::remove("linear"),
        StackKind::Quarters => dm::remove_quarters(),
        StackKind::Crypt | StackKind::CryptInline => dm::remove("crypt"),
        StackKind::Striped => dm::remove("striped"),
        StackKind::Thin => dm::remove("thin").and_then(|()| dm::remove("pool")),
        StackKind::Mirror | StackKind::Parity => md::stop(),
        StackKind::FaultInjection => fault_injection::unstack(),
        StackKind::Spread { number, .. } => dm::remove(&spread::spread_name(number)),
        StackKind::Gathered { number, .. } => dm::remove(&spread::gathered_name(number)),
        StackKind::Many(count) => dm::remove_many(count),
        StackKind::Scanned => scanned::unstack(),
        StackKind::Loop => unstack_loop(),
    }
}
