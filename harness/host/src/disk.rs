//! Disks: partition tables, filesystems, first content and copies that stay sparse.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use cowbird_proto::rng::Rng;
use cowbird_proto::sector::{self, SECTOR_BYTES, SectorIdentity};
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{HarnessError, HarnessResult, PathContext};
use crate::tool::{self, TOOL_LIMIT};

/// Identity in the sectors of a disk's first content; workloads use others.
pub const BASE_IDENTITY: u64 = 0xBA5E;

/// Bytes filled or copied at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Type byte of a partition that holds Linux data.
const MBR_LINUX: u8 = 0x83;

/// Where the boot code ends and the four partition entries start.
const MBR_TABLE_AT: usize = 446;

const MBR_ENTRY_BYTES: usize = 16;

/// Most partitions that an MBR without extended partitions holds.
const MBR_PARTITIONS: usize = 4;

/// A partition, in 512-byte sectors of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// First sector.
    pub start: u32,
    /// Length.
    pub sectors: u32,
}

impl Partition {
    /// Offset on the disk, bytes.
    #[must_use]
    pub fn offset_bytes(self) -> u64 {
        u64::from(self.start) * SECTOR_BYTES as u64
    }

    /// Length, bytes.
    #[must_use]
    pub fn length_bytes(self) -> u64 {
        u64::from(self.sectors) * SECTOR_BYTES as u64
    }

    /// First sector behind it.
    #[must_use]
    pub fn end(self) -> u32 {
        self.start + self.sectors
    }
}

/// The first sector of a disk with these partitions. The table counts in logical blocks.
///
/// # Errors
/// When there are more than four, or one begins or ends inside a logical block.
pub fn mbr(
    partitions: &[Partition],
    logical_block_bytes: u32,
) -> HarnessResult<[u8; SECTOR_BYTES]> {
    let unit = logical_block_bytes / SECTOR_BYTES as u32;
    if partitions.len() > MBR_PARTITIONS {
        let detail = format!("{} partitions do not fit an MBR", partitions.len());
        return Err(HarnessError::Plan { detail });
    }
    let mut table = [0; SECTOR_BYTES];
    for (index, partition) in partitions.iter().enumerate() {
        if partition.start % unit != 0 || partition.sectors % unit != 0 {
            let detail = format!("{partition:?} is no whole number of {logical_block_bytes} bytes");
            return Err(HarnessError::Plan { detail });
        }
        let entry = &mut table[MBR_TABLE_AT + index * MBR_ENTRY_BYTES..][..MBR_ENTRY_BYTES];
        // CHS addresses stay at their "use LBA" value; Linux reads only the LBA fields.
        entry[1..4].copy_from_slice(&[0xFE, 0xFF, 0xFF]);
        entry[4] = MBR_LINUX;
        entry[5..8].copy_from_slice(&[0xFE, 0xFF, 0xFF]);
        entry[8..12].copy_from_slice(&(partition.start / unit).to_le_bytes());
        entry[12..16].copy_from_slice(&(partition.sectors / unit).to_le_bytes());
    }
    table[SECTOR_BYTES - 2..].copy_from_slice(&[0x55, 0xAA]);
    Ok(table)
}

/// Makes a sparse file.
///
/// # Errors
/// When the file cannot be made.
pub fn create_sparse(path: &Path, bytes: u64) -> HarnessResult<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .on("create", path)?;
    file.set_len(bytes).on("set the length of", path)?;
    Ok(file)
}

/// Writes every byte of a disk as it is, so that none of it is a hole: the host takes longer to write to a hole than to
/// write again.
///
/// # Errors
/// When the file cannot be read or written.
pub fn make_solid(path: &Path) -> HarnessResult<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .on("open", path)?;
    let bytes = file.metadata().on("inspect", path)?.len();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < bytes {
        let length = chunk.len().min((bytes - at) as usize);
        file.read_exact_at(&mut chunk[..length], at)
            .on("read", path)?;
        file.write_all_at(&chunk[..length], at).on("write", path)?;
        at += length as u64;
    }
    Ok(())
}

/// Makes a disk with these partitions, each filled with sectors that say where they are, so that
/// even blocks that no workload ever wrote can be told apart.
///
/// # Errors
/// When the file cannot be written.
pub fn create_partitioned(
    path: &Path,
    disk_bytes: u64,
    logical_block_bytes: u32,
    partitions: &[Partition],
    filled: &[Partition],
    seed: u64,
) -> HarnessResult<()> {
    let file = create_sparse(path, disk_bytes)?;
    file.write_all_at(&mbr(partitions, logical_block_bytes)?, 0)
        .on("write the partition table of", path)?;
    for partition in filled {
        fill(&file, *partition, seed).on("fill", path)?;
    }
    Ok(())
}

fn fill(file: &File, partition: Partition, seed: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    while done < partition.length_bytes() {
        let length = (partition.length_bytes() - done).min(CHUNK_BYTES as u64) as usize;
        let first = SectorIdentity {
            identity: BASE_IDENTITY,
            sector: done / SECTOR_BYTES as u64,
            generation: 0,
            seed,
            writer: 0,
        };
        sector::fill(first, &mut chunk[..length]);
        file.write_all_at(&chunk[..length], partition.offset_bytes() + done)?;
        done += length as u64;
    }
    Ok(())
}

/// A filesystem that can be made on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// By the ext4 driver, without a journal.
    Ext2,
    /// By the ext4 driver, without extents.
    Ext3,
    /// With all that mkfs gives it.
    Ext4,
    /// As its tools make it, but smaller than they like it.
    Xfs,
    /// As its tools make it.
    F2fs,
    /// As its tools make it.
    Btrfs,
}

impl Filesystem {
    /// Type for mounting.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::F2fs => "f2fs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Whether e2fsck and debugfs know it.
    #[must_use]
    pub fn is_ext(self) -> bool {
        matches!(self, Self::Ext2 | Self::Ext3 | Self::Ext4)
    }
}

/// Makes a filesystem in a partition of a disk file. What it does not write stays; the same seed
/// makes the same ext filesystem.
///
/// # Errors
/// When the tool is missing or fails.
pub fn make_filesystem(
    kind: Filesystem,
    path: &Path,
    partition: Partition,
    seed: u64,
) -> HarnessResult<()> {
    let mut rng = Rng::for_part(seed, u64::from(partition.start));
    let uuid = uuid(&mut rng);
    if kind.is_ext() {
        return make_ext(kind, path, partition, &uuid, &self::uuid(&mut rng), None);
    }
    // These tools take whole files only: the partition is taken out and put back.
    let file = path.with_extension("partition");
    take_out(path, partition, &file)?;
    let (tool, hint, arguments): (_, _, &[&str]) = match kind {
        Filesystem::Xfs => (
            "mkfs.xfs",
            "package xfsprogs",
            // Without what kernels before 5.15 call experimental.
            &[
                "-q",
                "-f",
                "-K",
                "--unsupported",
                "-d",
                "agcount=2",
                "-m",
                "bigtime=0,inobtcount=0",
                // On by default from 6.5 of the tool on; no kernel before 5.19 mounts it.
                "-i",
                "nrext64=0",
                "-m",
            ],
        ),
        Filesystem::F2fs => (
            "mkfs.f2fs",
            "package f2fs-tools",
            &["-q", "-f", "-t", "0", "-U"],
        ),
        _ => (
            "mkfs.btrfs",
            "package btrfs-progs",
            &["-q", "-f", "-K", "-U"],
        ),
    };
    let uuid = if kind == Filesystem::Xfs {
        format!("uuid={uuid}")
    } else {
        uuid
    };
    let make = |log: &[&str]| {
        let mut command = Command::new(tool);
        command.args(log).args(arguments).arg(&uuid).arg(&file);
        run(tool, hint, &mut command)
    };
    // How large the log of a small XFS has to be depends on the tool's version.
    match kind {
        Filesystem::Xfs => {
            make(&["-l", "size=10m"]).or_else(|_| make(&["-l", "size=16m"]))?;
        }
        _ => {
            make(&[])?;
        }
    }
    let made = File::open(&file).on("open", &file)?;
    let disk = OpenOptions::new().write(true).open(path).on("open", path)?;
    copy_range(
        &made,
        0,
        &disk,
        partition.offset_bytes(),
        partition.length_bytes(),
    )
    .on("copy a partition to", path)?;
    std::fs::remove_file(&file).on("remove", &file)
}

/// Makes an ext4 in a partition of a disk file, with the files below a folder of the host in it: names, owners, rights
/// and contents.
///
/// # Errors
/// When the tool is missing or fails.
pub fn make_filled_ext4(
    path: &Path,
    partition: Partition,
    seed: u64,
    folder: &Path,
) -> HarnessResult<()> {
    let mut rng = Rng::for_part(seed, u64::from(partition.start));
    let (uuid, hash_seed) = (uuid(&mut rng), uuid(&mut rng));
    make_ext(
        Filesystem::Ext4,
        path,
        partition,
        &uuid,
        &hash_seed,
        Some(folder),
    )
}

/// Copies a partition of a disk file to a file of its own.
///
/// # Errors
/// When a file cannot be read or written.
pub fn take_out(disk: &Path, partition: Partition, to: &Path) -> HarnessResult<()> {
    let source = File::open(disk).on("open", disk)?;
    let target = create_sparse(to, partition.length_bytes())?;
    let (start, length) = (partition.offset_bytes(), partition.length_bytes());
    copy_range(&source, start, &target, 0, length).on("copy a partition of", disk)
}

fn make_ext(
    kind: Filesystem,
    path: &Path,
    partition: Partition,
    uuid: &str,
    hash_seed: &str,
    content: Option<&Path>,
) -> HarnessResult<()> {
    let extended = format!(
        "offset={},hash_seed={hash_seed},lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        partition.offset_bytes(),
    );
    run(
        "mkfs.ext4",
        "package e2fsprogs",
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-m", "0", "-t", kind.name()])
            .args(["-U", uuid, "-E", &extended])
            .args(
                content
                    .into_iter()
                    .flat_map(|folder| [Path::new("-d"), folder]),
            )
            .arg(path)
            .arg(format!("{}k", partition.length_bytes() / 1024))
            // Time stamps would differ between two runs of one seed.
            .env("E2FSPROGS_FAKE_TIME", "1000000000"),
    )
    .map(|_| ())
}

fn copy_range(from: &File, at: u64, to: &File, to_at: u64, length: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    while done < length {
        let bytes = (length - done).min(CHUNK_BYTES as u64) as usize;
        from.read_exact_at(&mut chunk[..bytes], at + done)?;
        to.write_all_at(&chunk[..bytes], to_at + done)?;
        done += bytes as u64;
    }
    Ok(())
}

/// A version 4 UUID.
fn uuid(rng: &mut Rng) -> String {
    let (high, low) = (rng.next_u64(), rng.next_u64());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xFFFF,
        high & 0x0FFF,
        low >> 48 & 0x3FFF | 0x8000,
        low & 0xFFFF_FFFF_FFFF,
    )
}

/// Runs a tool of the host and gives its standard output.
///
/// # Errors
/// When it is missing, takes longer than [`TOOL_LIMIT`], or its exit status is not 0.
pub fn run(tool: &'static str, hint: &'static str, command: &mut Command) -> HarnessResult<String> {
    let ran = tool::run_to_end(tool, hint, command, &std::env::temp_dir(), TOOL_LIMIT)?;
    if ran.code != 0 {
        let said = ran.complaints()?;
        return Err(ran.failed(format!("exit status: {}: {}", ran.code, said.trim())));
    }
    Ok(String::from_utf8_lossy(&ran.output()?).into_owned())
}

/// Copies a file: by reflink where the filesystem can, else only its data, leaving holes.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_sparse(from: &Path, to: &Path) -> HarnessResult<()> {
    let source = File::open(from).on("open", from)?;
    let length = source.metadata().on("stat", from)?.len();
    let target = create_sparse(to, 0)?;
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    target.set_len(length).on("set the length of", to)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while let Some((start, end)) = next_data(&source, at, length).on("find the data of", from)? {
        let mut offset = start;
        while offset < end {
            let count = (end - offset).min(CHUNK_BYTES as u64) as usize;
            source
                .read_exact_at(&mut chunk[..count], offset)
                .on("read", from)?;
            target
                .write_all_at(&chunk[..count], offset)
                .on("write", to)?;
            offset += count as u64;
        }
        at = end;
    }
    Ok(())
}

/// The holes of a file, as start and end in bytes; none where the filesystem knows of none.
pub fn holes(file: &File) -> std::io::Result<Vec<(u64, u64)>> {
    let length = file.metadata()?.len();
    let mut holes = Vec::new();
    let mut at = 0;
    while let Some((start, end)) = next_data(file, at, length)? {
        if at < start {
            holes.push((at, start));
        }
        at = end;
    }
    if at < length {
        holes.push((at, length));
    }
    Ok(holes)
}

/// The next stretch of data at or behind `at`.
fn next_data(file: &File, at: u64, length: u64) -> Result<Option<(u64, u64)>, Errno> {
    if at >= length {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some((start, seek(file, SeekFrom::Hole(start))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no hole, and nothing changed. Method: a sparse file with a few bytes and no whole number of chunks.
    #[test]
    fn a_solid_disk_has_no_hole() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let bytes = 3 * CHUNK_BYTES as u64 / 2;
        let file = create_sparse(&path, bytes).unwrap();
        file.write_all_at(b"something", 70_000).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < bytes);
        make_solid(&path).unwrap();
        file.sync_all().unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= bytes);
        assert!(std::fs::read(&path).unwrap() == before);
    }

    #[test]
    fn the_partition_table_has_the_documented_layout() {
        let partition = Partition {
            start: 2048,
            sectors: 0x0102_0304,
        };
        assert!(mbr(&[partition], 4096).is_err(), "it ends inside a block");
        let table = mbr(&[partition], 512).unwrap();
        assert_eq!(table[446 + 4], 0x83);
        assert_eq!(table[446 + 8..446 + 16], [0, 8, 0, 0, 4, 3, 2, 1]);
        assert_eq!(table[510..], [0x55, 0xAA]);
        let blocks = mbr(
            &[Partition {
                sectors: 4096,
                ..partition
            }],
            4096,
        )
        .unwrap();
        assert_eq!(blocks[446 + 8..446 + 16], [0, 1, 0, 0, 0, 2, 0, 0]);
        assert!(
            mbr(
                &[Partition {
                    start: 1,
                    sectors: 1
                }; 5],
                512
            )
            .is_err()
        );
    }

    /// Goal: a copy equals its source and does not fill the holes.
    #[test]
    fn a_copy_is_equal_and_stays_sparse() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = create_sparse(&from, 64 << 20).unwrap();
        file.write_all_at(&[7; 10_000], 33 << 20).unwrap();
        copy_sparse(&from, &to).unwrap();
        assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
        assert!(std::fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
    }

    /// Goal: a seed makes the same disk again, another seed another one.
    #[test]
    fn a_seed_decides_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let partition = Partition {
            start: 2048,
            sectors: 16 << 11,
        };
        let make = |name: &str, seed: u64| {
            let path = folder.path().join(name);
            create_partitioned(&path, 20 << 20, 512, &[partition], &[partition], seed).unwrap();
            make_filesystem(Filesystem::Ext4, &path, partition, seed).unwrap();
            std::fs::read(path).unwrap()
        };
        let first = make("a", 1);
        assert!(first == make("b", 1));
        assert!(first != make("c", 2));
    }
}
