//! What is on a device that is to be overwritten, by the magic numbers of what is usual.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// ext2, ext3 or ext4.
    Ext,
    /// xfs.
    Xfs,
    /// f2fs.
    F2fs,
    /// Anything else, by what it is called.
    Other(&'static str),
}

impl Content {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext => "an ext2, ext3 or ext4 filesystem",
            Self::Xfs => "an xfs filesystem",
            Self::F2fs => "an f2fs filesystem",
            Self::Other(name) => name,
        }
    }
}

/// Where something has its magic number.
#[derive(Clone, Copy)]
enum At {
    /// So many bytes behind the beginning.
    Begin(u64),
    /// At the last multiple of `unit` that leaves `bytes` behind it.
    End { bytes: u64, unit: u64 },
}

const KIB: u64 = 1 << 10;

const SIGNATURES: [(At, &[u8], Content); 37] = {
    use At::{Begin, End};
    use Content::{Ext, F2fs, Other, Xfs};
    const RAID: Content = Other("a member of a RAID (md)");
    const ZFS: Content = Other("a part of a ZFS pool");
    const LVM: Content = Other("a physical volume (LVM)");
    const SWAP: Content = Other("swap space");
    const RAID_MAGIC: &[u8] = &0xa92b_4efc_u32.to_le_bytes();
    [
        (Begin(0x438), b"\x53\xEF", Ext),
        (Begin(0), b"XFSB", Xfs),
        (Begin(0x400), b"\x10\x20\xF5\xF2", F2fs),
        (Begin(0x10040), b"_BHRfS_M", Other("a btrfs filesystem")),
        (
            Begin(0),
            b"LUKS\xBA\xBE",
            Other("an encrypted volume (LUKS)"),
        ),
        (
            Begin(0x4000),
            b"SKUL\xBA\xBE",
            Other("an encrypted volume (LUKS)"),
        ),
        (Begin(0), b"LABELONE", LVM),
        (Begin(512), b"LABELONE", LVM),
        (Begin(1024), b"LABELONE", LVM),
        (Begin(1536), b"LABELONE", LVM),
        (Begin(0), RAID_MAGIC, RAID),
        (Begin(4096), RAID_MAGIC, RAID),
        (
            End {
                bytes: 8 * KIB,
                unit: 4 * KIB,
            },
            RAID_MAGIC,
            RAID,
        ),
        (
            End {
                bytes: 64 * KIB,
                unit: 64 * KIB,
            },
            RAID_MAGIC,
            RAID,
        ),
        (Begin(4086), b"SWAPSPACE2", SWAP),
        (Begin(65526), b"SWAPSPACE2", SWAP),
        (
            Begin(4086),
            b"S1SUSPEND",
            Other("the memory of a hibernated machine"),
        ),
        (
            Begin(128 * KIB - 40),
            &0x0210_da7a_b10c_7a11_u64.to_le_bytes(),
            ZFS,
        ),
        (
            Begin(128 * KIB - 40),
            &0x0210_da7a_b10c_7a11_u64.to_be_bytes(),
            ZFS,
        ),
        (
            Begin(384 * KIB - 40),
            &0x0210_da7a_b10c_7a11_u64.to_le_bytes(),
            ZFS,
        ),
        (
            Begin(384 * KIB - 40),
            &0x0210_da7a_b10c_7a11_u64.to_be_bytes(),
            ZFS,
        ),
        (Begin(3), b"NTFS    ", Other("an NTFS filesystem")),
        (Begin(3), b"EXFAT   ", Other("an exFAT filesystem")),
        (Begin(54), b"FAT1", Other("a FAT filesystem")),
        (Begin(82), b"FAT32", Other("a FAT filesystem")),
        (Begin(0x8001), b"CD001", Other("an ISO 9660 filesystem")),
        (Begin(0), b"hsqs", Other("a squashfs filesystem")),
        (
            Begin(0x400),
            b"\xE2\xE1\xF5\xE0",
            Other("an EROFS filesystem"),
        ),
        (Begin(0x8000), b"JFS1", Other("a JFS filesystem")),
        (Begin(0x10034), b"ReIsEr", Other("a reiserfs filesystem")),
        (Begin(0x406), b"\x34\x34", Other("a nilfs2 filesystem")),
        (
            Begin(0x10000),
            b"\x01\x16\x19\x70",
            Other("a GFS2 filesystem"),
        ),
        (
            Begin(4096 + 24),
            b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
            Other("a bcache or bcachefs device"),
        ),
        (Begin(32), b"ORCLDISK", Other("a disk of Oracle ASM")),
        (
            Begin(0),
            b"bluestore block device",
            Other("an object store of Ceph"),
        ),
        (Begin(512), b"EFI PART", Other("a partition table (GPT)")),
        (Begin(4096), b"EFI PART", Other("a partition table (GPT)")),
    ]
};

/// The longest magic number.
const LONGEST: usize = 22;

/// Where an MBR has its partitions.
const MBR_BYTES: usize = 512;
const MBR_TABLE_AT: usize = 446;
const MBR_ENTRY_BYTES: usize = 16;

/// What is on a device of so many bytes, if it is something known.
///
/// # Errors
/// When it cannot be read.
pub fn recognise(device: &File, bytes: u64) -> io::Result<Option<Content>> {
    let mut buffer = [0; LONGEST];
    for (at, magic, content) in SIGNATURES {
        let at = match at {
            At::Begin(at) => at,
            At::End {
                bytes: from_end,
                unit,
            } => match (bytes / unit * unit).checked_sub(from_end) {
                Some(at) => at,
                None => continue,
            },
        };
        if at + magic.len() as u64 > bytes {
            continue;
        }
        let found = &mut buffer[..magic.len()];
        device.read_exact_at(found, at)?;
        if found == magic {
            return Ok(Some(content));
        }
    }
    let mut sector = [0; MBR_BYTES];
    if bytes >= MBR_BYTES as u64 {
        device.read_exact_at(&mut sector, 0)?;
    }
    Ok(has_partitions(&sector).then_some(Content::Other("a partition table (MBR)")))
}

/// Whether a first sector is an MBR with a partition: its end alone is found too often by chance.
fn has_partitions(sector: &[u8; MBR_BYTES]) -> bool {
    let (entries, _) = sector[MBR_TABLE_AT..MBR_BYTES - 2].as_chunks::<MBR_ENTRY_BYTES>();
    let is_used = |entry: &&[u8; MBR_ENTRY_BYTES]| entry[4] != 0 && entry[12..] != [0; 4];
    sector.ends_with(&[0x55, 0xAA])
        && entries.iter().all(|entry| entry[0] & 0x7F == 0)
        && entries.iter().any(|entry| is_used(&entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 4 << 20;

    fn device() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BYTES).unwrap();
        file
    }

    #[test]
    fn each_is_recognised_where_it_is() {
        assert_eq!(recognise(&device(), BYTES).unwrap(), None);
        for (at, magic, content) in SIGNATURES {
            assert!(magic.len() <= LONGEST);
            let file = device();
            let at = match at {
                At::Begin(at) => at,
                At::End { bytes, .. } => BYTES - bytes,
            };
            file.write_all_at(magic, at).unwrap();
            let found = recognise(&file, BYTES).unwrap().map(Content::name);
            assert_eq!(found, Some(content.name()), "{at}");
        }
    }

    /// Goal: the places are those of the tools that make them, and not only those of this table. Method: filesystems made here, where the
    /// tool is there.
    #[test]
    fn what_mkfs_makes_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let mut made = 0;
        for (tool, content) in [
            ("mkfs.ext4", Content::Ext),
            ("mkfs.ext2", Content::Ext),
            ("mkswap", Content::Other("swap space")),
        ] {
            let path = dir.path().join(tool);
            File::create(&path).unwrap().set_len(BYTES).unwrap();
            let Ok(output) = std::process::Command::new(tool).arg(&path).output() else {
                continue;
            };
            assert!(output.status.success(), "{tool}: {output:?}");
            let file = File::open(&path).unwrap();
            assert_eq!(recognise(&file, BYTES).unwrap(), Some(content), "{tool}");
            made += 1;
        }
        assert!(made > 0, "no tool is there");
    }

    #[test]
    fn a_partition_table_needs_a_partition() {
        let mut sector = [0; MBR_BYTES];
        sector[510..].copy_from_slice(&[0x55, 0xAA]);
        assert!(!has_partitions(&sector));
        sector[MBR_TABLE_AT + 4] = 0x83;
        sector[MBR_TABLE_AT + 13] = 8;
        assert!(has_partitions(&sector));
        sector[MBR_TABLE_AT] = 0x21;
        assert!(!has_partitions(&sector));
    }

    #[test]
    fn a_device_may_be_tiny() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(512).unwrap();
        assert_eq!(recognise(&file, 512).unwrap(), None);
    }
}
