//! Typed host-guest protocol, and the formats that guest and host must agree on.
//!
//! One byte stream (a virtio-serial port) carries [frames](frame); each frame holds one
//! [message](message) in postcard encoding. The guest speaks first, with [`message::Hello`]; after
//! that the host asks and the guest answers by request id, and the guest sends
//! [events](message::Event) whenever it has some.
//!
//! Also here, because a writer in the guest and a reader on the host must not drift apart: the
//! [seeded random numbers](rng), the [self-describing sectors](sector) of the workloads, and what a
//! [recorded] workload writes.

pub mod frame;
pub mod message;
pub mod recorded;
pub mod rng;
pub mod sector;

/// Name of the virtio-serial port that carries the protocol, as QEMU and sysfs show it.
pub const PORT_NAME: &str = "cowbird.agent";

/// Name of a second port, where there is one: then the guest sends on it, and only receives on the first. Recorded
/// guests have it, because what a device of QEMU sends must never have to wait for its reader.
pub const SEND_PORT_NAME: &str = "cowbird.agent.send";

/// Version of frames, messages and what workloads write, together: a digest that the build makes of the code that says them
/// (`build/digest.rs`). It travels in every frame header, so that a guest of another build is refused by name and not by a decoding
/// error somewhere in a message.
pub const PROTOCOL_VERSION: u64 = include!(concat!(env!("OUT_DIR"), "/version.rs"));

/// Where a guest with a root volume keeps what was said until that was mounted: by the boot hooks, and by
/// its own init.
pub const BOOT_LOG: &str = "/tmp/boot.txt";
