//! The disks of a guest, and what QEMU and its monitor call them.

use std::path::PathBuf;

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bus {
    /// `/dev/vda` and so on.
    Virtio,
    /// `/dev/sda`, behind a virtio controller; has FUA.
    Scsi,
    /// `/dev/nvme0n1`; has FUA.
    Nvme,
}

impl Bus {
    /// What the guest calls a disk of this bus, without its folder. The first one has number 0.
    #[must_use]
    pub fn disk_name(self, number: u8) -> String {
        let letter = char::from(b'a' + number);
        match self {
            Self::Virtio => format!("vd{letter}"),
            Self::Scsi => format!("sd{letter}"),
            Self::Nvme => format!("nvme{number}n1"),
        }
    }
}

/// A disk of the guest. On one bus they are named in their order.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Raw image file.
    pub image: PathBuf,
    /// Where the witness writes what it sees, if this disk has a witness. Must exist.
    pub witness: Option<PathBuf>,
    /// How it is attached.
    pub bus: Bus,
    /// Unit of its reads and writes, bytes.
    pub logical_block_bytes: u32,
}

/// What the guest's disks are called in the monitor.
#[must_use]
pub fn device_id(index: usize) -> String {
    format!("disk{index}")
}

/// The part of a guest's disk that reads and writes, as the monitor finds it; the PCI device of a virtio disk is only
/// around it.
#[must_use]
pub fn backend_path(index: usize, bus: Bus) -> String {
    let device = format!("/machine/peripheral/{}", device_id(index));
    match bus {
        Bus::Virtio => format!("{device}/virtio-backend"),
        Bus::Scsi | Bus::Nvme => device,
    }
}

/// The node that a disk with a witness is attached to.
#[must_use]
pub fn top_node(index: usize) -> String {
    format!("top{index}")
}
