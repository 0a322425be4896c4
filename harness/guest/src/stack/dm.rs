//! Device-mapper devices, made by the ioctls of `linux/dm-ioctl.h`.

use std::fs::metadata;
use std::os::unix::fs::MetadataExt;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::files;
use cowbird_proto::message::CRYPT_KEY;
use rustix::ioctl::{Updater, ioctl, opcode};

use super::device::open;
use crate::ops;

const CONTROL: &str = "/dev/mapper/control";

const DEV_CREATE: u32 = opcode::read_write::<Header>(0xfd, 3);
const DEV_REMOVE: u32 = opcode::read_write::<Header>(0xfd, 4);
const DEV_SUSPEND: u32 = opcode::read_write::<Header>(0xfd, 6);
const DEV_STATUS: u32 = opcode::read_write::<Header>(0xfd, 7);
const TABLE_LOAD: u32 = opcode::read_write::<Header>(0xfd, 9);
const TARGET_MESSAGE: u32 = opcode::read_write::<Header>(0xfd, 14);

/// Room for targets, or for a message.
const DATA_BYTES: usize = 4096;

/// `DM_READONLY_FLAG`: the devices below are opened for reading only.
const READ_ONLY: u32 = 1;

/// `DM_SKIP_LOCKFS_FLAG`: a change of the table does not freeze the filesystem on the device.
const SKIP_LOCKFS: u32 = 1 << 10;

/// `struct dm_target_spec` without the parameters that follow it.
const TARGET_BYTES: usize = 40;

/// Data blocks of a thin pool, sectors: the smallest that there are, 64 KiB.
const THIN_BLOCK_SECTORS: u64 = 128;

/// Chunks of a striped device, sectors: 256 KiB.
const STRIPE_SECTORS: u64 = 512;

/// `struct dm_ioctl`, with room for what may follow it.
#[repr(C)]
struct Request {
    header: Header,
    data: [u8; DATA_BYTES],
}

#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// One line of a table.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    pub start: u64,
    pub sectors: u64,
    pub kind: &'static str,
    pub parameters: String,
}

/// `major:minor` of a device.
pub fn number(device: &str) -> GuestResult<String> {
    let number = metadata(device)
        .context(format_args!("stat {device}"))?
        .rdev();
    Ok(written(number))
}

/// `major:minor` of a device of ours, by its name.
pub fn number_of(name: &str) -> GuestResult<String> {
    send(DEV_STATUS, &mut request(name)).map(written)
}

fn written(number: u64) -> String {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    format!("{major}:{minor}")
}

pub fn sectors_of(device: &str) -> GuestResult<u64> {
    Ok(files::size_of(device)? / 512)
}

/// The whole of a device, in so many pieces that follow each other on it.
pub fn linear(device: &str, pieces: u64) -> GuestResult<String> {
    let (sectors, number) = (sectors_of(device)?, number(device)?);
    // A cut inside a block of 4096 bytes: the two halves of that block are two bios below.
    let cut = |piece: u64| {
        if piece == pieces {
            sectors
        } else {
            sectors / pieces * piece / 8 * 8 + piece.min(1) * 3
        }
    };
    let targets: Vec<Target> = (0..pieces)
        .map(|piece| Target {
            start: cut(piece),
            sectors: cut(piece + 1) - cut(piece),
            kind: "linear",
            parameters: format!("{number} {}", cut(piece)),
        })
        .collect();
    create("linear", &targets)
}

/// What the devices on the quarters of another are called.
const QUARTERS: [&str; 4] = ["quarter0", "quarter1", "quarter2", "quarter3"];

/// Four devices, each on a quarter of another; gives the path of the first.
pub fn quarters(device: &str) -> GuestResult<String> {
    let (sectors, number) = (sectors_of(device)? / 4 / 8 * 8, number(device)?);
    let mut first = None;
    for (quarter, name) in (0..).zip(QUARTERS) {
        let target = Target {
            start: 0,
            sectors,
            kind: "linear",
            parameters: format!("{number} {}", quarter * sectors),
        };
        let path = create(name, &[target])?;
        first.get_or_insert(path);
    }
    first.ok_or_else(|| failure("there are no quarters"))
}

/// Removes them.
pub fn remove_quarters() -> GuestResult<()> {
    QUARTERS.into_iter().try_for_each(remove)
}

/// So many devices, each all of the same one; their paths.
pub fn many(device: &str, count: u32) -> GuestResult<String> {
    let (sectors, number) = (sectors_of(device)?, number(device)?);
    let mut paths = Vec::new();
    for one in 0..count {
        let target = Target {
            start: 0,
            sectors,
            kind: "linear",
            parameters: format!("{number} 0"),
        };
        paths.push(create(&one_of_many(one), &[target])?);
    }
    Ok(paths.join(" "))
}

/// Removes them.
pub fn remove_many(count: u32) -> GuestResult<()> {
    (0..count).try_for_each(|one| remove(&one_of_many(one)))
}

fn one_of_many(one: u32) -> String {
    format!("many{one}")
}

/// An encrypted device, with further parameters of its target.
pub fn crypt(device: &str, more: &str) -> GuestResult<String> {
    let key: String = CRYPT_KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    let target = Target {
        start: 0,
        sectors: sectors_of(device)?,
        kind: "crypt",
        parameters: format!("aes-xts-plain64 {key} 0 {} 0{more}", number(device)?),
    };
    create("crypt", &[target])
}

/// Two devices as one, in turns; what does not fill a chunk on both of them is left out.
pub fn striped(first: &str, second: &str) -> GuestResult<String> {
    let each = sectors_of(first)?.min(sectors_of(second)?) / STRIPE_SECTORS * STRIPE_SECTORS;
    let target = Target {
        start: 0,
        sectors: 2 * each,
        kind: "striped",
        parameters: format!(
            "2 {STRIPE_SECTORS} {} 0 {} 0",
            number(first)?,
            number(second)?
        ),
    };
    create("striped", &[target])
}

/// A thin volume as large as its pool, every block of which is provisioned at its own place: the
/// pool gives blocks out in order, and they are asked for in order.
pub fn thin(data: &str, metadata: &str) -> GuestResult<String> {
    let sectors = sectors_of(data)?;
    if !sectors.is_multiple_of(THIN_BLOCK_SECTORS) {
        return Err(failure(format!("{data} is no whole number of pool blocks")));
    }
    // Discards stay above: they would give blocks back, and others would then take their place.
    let pool = Target {
        start: 0,
        sectors,
        kind: "thin-pool",
        parameters: format!(
            "{} {} {THIN_BLOCK_SECTORS} 0 2 skip_block_zeroing ignore_discard",
            number(metadata)?,
            number(data)?
        ),
    };
    let pool = create("pool", &[pool])?;
    message("pool", "create_thin 0")?;
    let thin = Target {
        start: 0,
        sectors,
        kind: "thin",
        parameters: format!("{} 0", number(&pool)?),
    };
    let thin = create("thin", &[thin])?;
    ops::copy_device(data, None, &thin, 0, THIN_BLOCK_SECTORS as usize * 512)?;
    Ok(thin)
}

/// Removes a device by its name.
pub fn remove(name: &str) -> GuestResult<()> {
    send(DEV_REMOVE, &mut request(name)).map(|_| ())
}

/// Makes a device; gives its path.
pub fn create(name: &str, targets: &[Target]) -> GuestResult<String> {
    create_with(name, targets, 0)
}

/// Makes a device of what can only be read.
pub fn create_read_only(name: &str, targets: &[Target]) -> GuestResult<String> {
    create_with(name, targets, READ_ONLY)
}

fn create_with(name: &str, targets: &[Target], flags: u32) -> GuestResult<String> {
    let device = send(DEV_CREATE, &mut request(name))?;
    load_with(name, targets, flags)?;
    Ok(format!("/dev/dm-{}", rustix::fs::minor(device)))
}

/// Gives a device another table, while it is used.
pub fn load(name: &str, targets: &[Target]) -> GuestResult<()> {
    load_with(name, targets, 0)
}

fn load_with(name: &str, targets: &[Target], flags: u32) -> GuestResult<()> {
    let mut load = request(name);
    load.header.flags = flags;
    load.header.target_count = targets.len() as u32;
    let mut at = 0;
    for target in targets {
        at += write_target(target, load.data.get_mut(at..).unwrap_or_default())?;
    }
    send(TABLE_LOAD, &mut load)?;
    // Without the suspend flag this resumes, which makes the table live.
    let mut resume = request(name);
    resume.header.flags = SKIP_LOCKFS;
    send(DEV_SUSPEND, &mut resume).map(|_| ())
}

/// Writes a target and its parameters; gives their length, which is where the next one begins.
fn write_target(target: &Target, out: &mut [u8]) -> GuestResult<usize> {
    let parameters = target.parameters.as_bytes();
    let length = (TARGET_BYTES + parameters.len() + 1).next_multiple_of(8);
    let Some(out) = out.get_mut(..length) else {
        return Err(failure("the table is too long for one request"));
    };
    out[..8].copy_from_slice(&target.start.to_le_bytes());
    out[8..16].copy_from_slice(&target.sectors.to_le_bytes());
    out[20..24].copy_from_slice(&(length as u32).to_le_bytes());
    out[24..24 + target.kind.len()].copy_from_slice(target.kind.as_bytes());
    out[TARGET_BYTES..TARGET_BYTES + parameters.len()].copy_from_slice(parameters);
    Ok(length)
}

fn message(name: &str, text: &str) -> GuestResult<()> {
    let mut message = request(name);
    // `struct dm_target_msg`: the sector that names the target, then the text.
    message.data[8..8 + text.len()].copy_from_slice(text.as_bytes());
    send(TARGET_MESSAGE, &mut message).map(|_| ())
}

fn request(name: &str) -> Request {
    let mut request = Request {
        header: Header {
            version: [4, 0, 0],
            data_size: size_of::<Request>() as u32,
            data_start: size_of::<Header>() as u32,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        },
        data: [0; DATA_BYTES],
    };
    request.header.name[..name.len()].copy_from_slice(name.as_bytes());
    request
}

/// Sends a request; gives the device number of the answer.
fn send(number: u32, request: &mut Request) -> GuestResult<u64> {
    let control = open(CONTROL)?;
    // The size in the ioctl's number is that of the header alone; the kernel reads data_size.
    let result = match number {
        // SAFETY: each of these reads and writes at most data_size bytes, the size of the request,
        // which is repr(C), initialised, and lives across the call.
        DEV_CREATE => unsafe { ioctl(&control, Updater::<DEV_CREATE, _>::new(request)) },
        // SAFETY: as above.
        DEV_REMOVE => unsafe { ioctl(&control, Updater::<DEV_REMOVE, _>::new(request)) },
        // SAFETY: as above.
        DEV_SUSPEND => unsafe { ioctl(&control, Updater::<DEV_SUSPEND, _>::new(request)) },
        // SAFETY: as above.
        DEV_STATUS => unsafe { ioctl(&control, Updater::<DEV_STATUS, _>::new(request)) },
        // SAFETY: as above.
        TABLE_LOAD => unsafe { ioctl(&control, Updater::<TABLE_LOAD, _>::new(request)) },
        // SAFETY: as above.
        TARGET_MESSAGE => unsafe { ioctl(&control, Updater::<TARGET_MESSAGE, _>::new(request)) },
        other => {
            return Err(failure(format!(
                "{other:#x} is no request of device-mapper"
            )));
        }
    };
    result.context(format_args!("device-mapper request {number:#x}"))?;
    Ok(request.header.dev)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a target is laid out as `struct dm_target_spec` with its parameters behind it.
    #[test]
    fn a_target_has_the_documented_layout() {
        let target = Target {
            start: 8,
            sectors: 0x0102,
            kind: "linear",
            parameters: "254:1 0".to_owned(),
        };
        let mut out = [0xEE; 64];
        assert_eq!(write_target(&target, &mut out).unwrap(), 48);
        assert_eq!(out[..10], [8, 0, 0, 0, 0, 0, 0, 0, 2, 1]);
        assert_eq!(out[20..24], [48, 0, 0, 0]);
        assert_eq!(&out[24..31], b"linear\xEE");
        assert!(write_target(&target, &mut out[..40]).is_err());
    }
}
