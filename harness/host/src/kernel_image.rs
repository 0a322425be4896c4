//! Kernels unpacked on the host.
//!
//! A `bzImage` unpacks itself, which under software emulation takes up to 1.5 s of every boot.
//! QEMU can start the ELF file inside it directly (by its PVH entry point, which Debian's kernels
//! have), so it is unpacked once, natively, and kept.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{HarnessError, HarnessResult, PathContext};

/// The boot protocol's header, see the kernel's `Documentation/arch/x86/boot.rst`.
const SETUP_SECTORS_AT: usize = 0x1F1;
const HEADER_MAGIC_AT: usize = 0x202;
const HEADER_MAGIC: [u8; 4] = *b"HdrS";
const PAYLOAD_OFFSET_AT: usize = 0x248;
const PAYLOAD_LENGTH_AT: usize = 0x24C;
const HEADER_END: usize = 0x250;

/// Setup sectors when the header says 0.
const DEFAULT_SETUP_SECTORS: usize = 4;

const SECTOR_BYTES: usize = 512;

/// The kernel's build appends the unpacked size to the payload.
const SIZE_SUFFIX_BYTES: usize = 4;

const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4C, 0x18];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const ELF_MAGIC: [u8; 4] = *b"\x7FELF";

/// Unpacked size of one block in an LZ4 legacy stream.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// How the name of an unpacked kernel ends.
const IMAGE: &str = "elf";

/// How the name of the digest of an unpacked kernel ends.
const DIGEST: &str = "sha256";

/// Largest unpacked kernel; those of Debian have 60 MiB.
const MAX_KERNEL_BYTES: usize = 512 << 20;

/// The path of a kernel that boots faster than `vmlinuz` and is otherwise the same: its unpacked
/// form below `cache_dir`, or `vmlinuz` itself when it is packed in a way that is not known here. It is drafted in `drafts`, on
/// the same disk: whatever is in the folder of images is whole.
///
/// # Errors
/// When the kernel cannot be read, is damaged, or the cache cannot be written.
pub fn unpacked(vmlinuz: &Path, cache_dir: &Path, drafts: &Path) -> HarnessResult<PathBuf> {
    let packed = fs::read(vmlinuz).on("read", vmlinuz)?;
    let folder = folder(cache_dir);
    let path = folder.join(file_name(&packed));
    if is_intact(&path) {
        return Ok(path);
    }
    let damaged = |detail: String| HarnessError::Plan {
        detail: format!("{} is damaged: {detail}; fetch it again", vmlinuz.display()),
    };
    let Some(kernel) = unpack(&packed).map_err(damaged)? else {
        return Ok(vmlinuz.to_owned());
    };
    fs::create_dir_all(&folder).on("create", &folder)?;
    // The digest last: without it the image counts for nothing.
    keep(drafts, &path, &kernel)?;
    keep(drafts, &digest_path(&path), hex(&kernel).as_bytes())?;
    Ok(path)
}

/// Writes a file so that it is there, on stable storage, whole or not at all: another process may unpack the same kernel.
fn keep(drafts: &Path, path: &Path, content: &[u8]) -> HarnessResult<()> {
    let mut file = tempfile::NamedTempFile::new_in(drafts).on("create a file in", drafts)?;
    file.write_all(content).on("write", file.path())?;
    file.as_file().sync_all().on("sync", file.path())?;
    file.persist(path)
        .map_err(|error| error.error)
        .on("create", path)?;
    let folder = path.parent().unwrap_or(path);
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .on("sync", folder)
}

/// Whether a file of the folder is one of an unpacked kernel, or its digest.
#[must_use]
pub fn is_kept(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending == IMAGE || ending == DIGEST)
}

/// The unpacked kernel that a file of the folder belongs to.
#[must_use]
pub fn image_of(path: &Path) -> PathBuf {
    path.with_extension(IMAGE)
}

/// Where the digest of an unpacked kernel is kept.
fn digest_path(path: &Path) -> PathBuf {
    path.with_extension(DIGEST)
}

/// Whether an unpacked kernel is there, and what it was when it was unpacked.
fn is_intact(path: &Path) -> bool {
    let expected = fs::read_to_string(digest_path(path));
    expected.is_ok_and(|expected| fs::read(path).is_ok_and(|kernel| hex(&kernel) == expected))
}

/// Where unpacked kernels are below the cache's folder.
#[must_use]
pub fn folder(cache_dir: &Path) -> PathBuf {
    cache_dir.join("boot")
}

/// What the unpacked form of a kernel is called in that folder.
///
/// # Errors
/// When the kernel cannot be read.
pub fn unpacked_name(vmlinuz: &Path) -> HarnessResult<String> {
    Ok(file_name(&fs::read(vmlinuz).on("read", vmlinuz)?))
}

fn file_name(packed: &[u8]) -> String {
    format!("{}.{IMAGE}", hex(packed))
}

fn hex(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ELF file in a `bzImage`; `None` when it is packed in a way that is not known here.
fn unpack(image: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if image.len() < HEADER_END || image[HEADER_MAGIC_AT..][..4] != HEADER_MAGIC {
        return Ok(None);
    }
    let setup_sectors = match image[SETUP_SECTORS_AT] {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * SECTOR_BYTES + number_at(image, PAYLOAD_OFFSET_AT);
    let length = number_at(image, PAYLOAD_LENGTH_AT).saturating_sub(SIZE_SUFFIX_BYTES);
    let payload = image
        .get(start..start.saturating_add(length))
        .ok_or("its payload reaches past its end".to_owned())?;
    let kernel = if payload.starts_with(&LZ4_LEGACY_MAGIC) {
        unpack_lz4(&payload[LZ4_LEGACY_MAGIC.len()..])?
    } else if payload.starts_with(&ZSTD_MAGIC) {
        unpack_zstd(payload)?
    } else {
        return Ok(None);
    };
    if !kernel.starts_with(&ELF_MAGIC) {
        return Err("its payload is no ELF file".into());
    }
    Ok(Some(kernel))
}

/// Blocks, each after its packed length; all but the last unpack to [`LZ4_BLOCK_BYTES`].
fn unpack_lz4(mut stream: &[u8]) -> Result<Vec<u8>, String> {
    let mut kernel = Vec::new();
    while stream.len() > size_of::<u32>() {
        let length = number_at(stream, 0);
        let block = stream
            .get(4..4_usize.saturating_add(length))
            .ok_or("an LZ4 block reaches past its end")?;
        let unpacked = lz4_flex::block::decompress(block, LZ4_BLOCK_BYTES)
            .map_err(|error| error.to_string())?;
        kernel.extend_from_slice(&unpacked);
        if kernel.len() > MAX_KERNEL_BYTES {
            return Err("it unpacks to more than a kernel can have".into());
        }
        stream = &stream[4 + length..];
    }
    Ok(kernel)
}

fn unpack_zstd(stream: &[u8]) -> Result<Vec<u8>, String> {
    let mut kernel = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(stream).map_err(|e| e.to_string())?;
    decoder
        .single_frame()
        .take(MAX_KERNEL_BYTES as u64)
        .read_to_end(&mut kernel)
        .map_err(|error| error.to_string())?;
    Ok(kernel)
}

fn number_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR_BYTES];
        image[SETUP_SECTORS_AT] = 1;
        image[HEADER_MAGIC_AT..][..4].copy_from_slice(&HEADER_MAGIC);
        let length = (payload.len() + SIZE_SUFFIX_BYTES) as u32;
        image[PAYLOAD_LENGTH_AT..][..4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0; SIZE_SUFFIX_BYTES]);
        image
    }

    #[test]
    fn lz4_blocks_are_joined() {
        let kernel: Vec<u8> = [&ELF_MAGIC[..], &vec![7; LZ4_BLOCK_BYTES + 1000]].concat();
        let mut payload = LZ4_LEGACY_MAGIC.to_vec();
        for block in kernel.chunks(LZ4_BLOCK_BYTES) {
            let packed = lz4_flex::block::compress(block);
            payload.extend_from_slice(&(packed.len() as u32).to_le_bytes());
            payload.extend_from_slice(&packed);
        }
        assert!(unpack(&image(&payload)).unwrap().unwrap() == kernel);
        payload.pop();
        payload.pop();
        assert!(unpack(&image(&payload)).is_err(), "a damaged block");
    }

    /// Goal: an image of the cache that is not what it was is never booted. Method: the image cut off, changed, and without its digest.
    #[test]
    fn a_damaged_image_is_unpacked_again() {
        let folder = tempfile::tempdir().unwrap();
        let vmlinuz = folder.path().join("vmlinuz");
        let kernel = [&ELF_MAGIC[..], b"the kernel"].concat();
        let packed = zstd::encode_all(&kernel[..], 1).unwrap();
        fs::write(&vmlinuz, image(&packed)).unwrap();
        let path = unpacked(&vmlinuz, folder.path(), folder.path()).unwrap();
        assert!(fs::read(&path).unwrap() == kernel);
        for damage in [&b""[..], b"\x7FELFthe kerneL"] {
            fs::write(&path, damage).unwrap();
            assert_eq!(
                unpacked(&vmlinuz, folder.path(), folder.path()).unwrap(),
                path
            );
            assert!(fs::read(&path).unwrap() == kernel);
        }
        fs::write(&path, b"").unwrap();
        fs::remove_file(digest_path(&path)).unwrap();
        unpacked(&vmlinuz, folder.path(), folder.path()).unwrap();
        assert!(fs::read(&path).unwrap() == kernel);
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        unpacked(&vmlinuz, folder.path(), folder.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn what_is_not_known_is_left_alone() {
        assert_eq!(unpack(b"no kernel"), Ok(None));
        assert_eq!(unpack(&image(b"packed in some other way")), Ok(None));
    }
}
