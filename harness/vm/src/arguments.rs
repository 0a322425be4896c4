//! Arguments of QEMU, in its several ways of quoting.

use std::ffi::OsString;
use std::path::Path;

use crate::disks::{Bus, Disk, device_id, top_node};

/// Unit of the witness log; every write of the guest is a whole number of it.
const WITNESS_SECTOR_BYTES: u32 = 512;

/// How many entries may be missing from the witness's superblock while QEMU runs. At its end QEMU
/// does not write the superblock; the last flush does. Small, so that a killed QEMU leaves a log
/// that is nearly complete.
const WITNESS_SUPER_INTERVAL: u32 = 64;

/// A list of arguments in the making.
#[derive(Default)]
pub struct Arguments(Vec<OsString>);

impl Arguments {
    pub fn into_inner(self) -> Vec<OsString> {
        self.0
    }

    pub fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    pub fn path(&mut self, flag: &str, prefix: &str, path: &Path) {
        let mut value = OsString::from(prefix);
        // In option values a comma is written twice; plain file arguments are taken as they are.
        if prefix.is_empty() {
            value.push(path);
        } else {
            value.push(path.to_string_lossy().replace(',', ",,"));
        }
        self.0.extend([OsString::from(flag), value]);
    }

    /// A path behind something that is not an option value: a comma is a comma.
    pub(super) fn plain_path(&mut self, flag: &str, prefix: &str, path: &Path) {
        let mut value = OsString::from(prefix);
        value.push(path);
        self.0.extend([OsString::from(flag), value]);
    }

    /// Adds to the value of the last option.
    pub fn append(&mut self, text: &str) {
        if let Some(value) = self.0.last_mut() {
            value.push(text);
        }
    }

    /// Adds a further path to the value of the last option.
    pub(super) fn append_path(&mut self, name: &str, path: &Path) {
        self.append(name);
        self.append(&path.to_string_lossy().replace(',', ",,"));
    }

    /// A port of the virtio serial device.
    pub(super) fn port(&mut self, chardev: &str, name: &str) {
        let value = format!("virtserialport,chardev={chardev},name={name}");
        self.flags(&["-device", &value]);
    }

    /// The host's page cache does not matter after a crash of the host, so the files ignore
    /// flushes; the witness still records those of the guest, because it sits above.
    ///
    /// When an access to a file ends, that to the witness included, is on the tape: what the guest sees of its disk and
    /// the order of the witness both follow from it.
    pub fn disk(&mut self, index: usize, disk: &Disk, taped: bool) {
        let file = |id: &str| {
            format!("driver=file,cache.no-flush=on,discard=unmap,node-name={id},filename=")
        };
        let (data, log, top) = (
            format!("data{index}"),
            format!("log{index}"),
            top_node(index),
        );
        self.path("-blockdev", &file(&data), &disk.image);
        let data = self.on_tape(data, taped);
        let drive = match &disk.witness {
            None => data,
            Some(witness) => {
                self.path("-blockdev", &file(&log), witness);
                let log = self.on_tape(log, taped);
                self.flags(&[
                    "-blockdev",
                    &format!(
                        "driver=blklogwrites,node-name={top},file={data},log={log},discard=unmap,\
                         log-sector-size={WITNESS_SECTOR_BYTES},\
                         log-super-update-interval={WITNESS_SUPER_INTERVAL}"
                    ),
                ]);
                top
            }
        };
        let device = match disk.bus {
            // Without a thread of its own for what the guest submits, whose timing is not on the tape.
            Bus::Virtio if taped => "virtio-blk-pci,ioeventfd=off",
            Bus::Virtio => "virtio-blk-pci",
            Bus::Scsi => {
                self.flags(&["-device", "virtio-scsi-pci"]);
                "scsi-hd"
            }
            Bus::Nvme => "nvme,serial=cowbird",
        };
        // QEMU joins writes that follow each other until they have IOV_MAX pieces; the witness adds one of its own,
        // and the write then fails with EINVAL. Seen when 10 MB of small pages were written back at once.
        let merging = match (disk.bus, &disk.witness) {
            (Bus::Virtio, Some(_)) => ",request-merging=off",
            _ => "",
        };
        let bytes = disk.logical_block_bytes;
        self.flags(&[
            "-device",
            &format!(
                "{device}{merging},id={},drive={drive},logical_block_size={bytes},\
                 physical_block_size={bytes}",
                device_id(index)
            ),
        ]);
    }

    /// The node above `below` that puts the ends of its accesses on the tape, if there is one.
    fn on_tape(&mut self, below: String, taped: bool) -> String {
        if !taped {
            return below;
        }
        let node = format!("taped-{below}");
        let value = format!("driver=blkreplay,node-name={node},image={below},discard=unmap");
        self.flags(&["-blockdev", &value]);
        node
    }
}
