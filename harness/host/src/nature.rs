//! What the disks of a cell are: all that a judge must know of them besides their bytes.

use crate::disk::Partition;

/// What the origin is, as it lies on the first disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OriginKind {
    /// The first partition, as it is.
    #[default]
    Partition,
    /// The whole disk, with its partition table and all partitions.
    WholeDisk,
    /// A mirror on the first partitions of the first disk and of its copy, which must end with the same content there.
    Mirror,
    /// The first partition, on which everything is encrypted.
    Encrypted,
}

/// A further disk that is written to, with a witness of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FurtherDisk {
    /// There is none.
    #[default]
    None,
    /// One with the same partitions and other content. A disk for its image comes with it.
    SecondVolume,
    /// One that begins as a copy of the first.
    Copy,
}

/// The nature of the disks of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nature {
    /// What the origin is.
    pub kind: OriginKind,
    /// The first partition, in sectors of 512 bytes of its disk.
    pub first: Partition,
    /// The disk beside the first one.
    pub further: FurtherDisk,
}
