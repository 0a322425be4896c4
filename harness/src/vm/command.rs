//! The command line of QEMU: data in, arguments out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cowbird_proto::PORT_NAME;

use crate::accel::Accel;

/// The QEMU program.
pub const QEMU: &str = "qemu-system-x86_64";

/// Console messages up to this level (exclusive) go to the serial console. Warnings included;
/// every character costs an exit under software emulation, so not more.
const CONSOLE_LEVEL: u32 = 5;

/// Ring of the kernel log: nothing of a cell may be overwritten before it is read.
const LOG_RING: &str = "4M";

/// Unit of the witness log; every write of the guest is a whole number of it.
const WITNESS_SECTOR_BYTES: u32 = 512;

/// How many entries may be missing from the witness's superblock while QEMU runs. At its end QEMU
/// does not write the superblock; the last flush does. Small, so that a killed QEMU leaves a log
/// that is nearly complete.
const WITNESS_SUPER_INTERVAL: u32 = 64;

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// `/dev/vda` and so on.
    Virtio,
    /// `/dev/sda`, behind a virtio controller; has FUA.
    Scsi,
    /// `/dev/nvme0n1`; has FUA.
    Nvme,
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

/// A virtual machine to be.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Further kernel parameters.
    pub kernel_parameters: String,
    /// The disks.
    pub disks: Vec<Disk>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Acceleration.
    pub accel: Accel,
    /// Folder for console, sockets' parent excepted.
    pub work_dir: PathBuf,
}

impl VmConfig {
    /// The serial console is written here.
    #[must_use]
    pub fn console_path(&self) -> PathBuf {
        self.work_dir.join("console.txt")
    }

    /// QEMU's own messages are written here.
    #[must_use]
    pub fn qemu_log_path(&self) -> PathBuf {
        self.work_dir.join("qemu.txt")
    }

    /// The whole argument list; sockets are made in `socket_dir`.
    #[must_use]
    pub fn arguments(&self, socket_dir: &Path) -> Vec<OsString> {
        let mut args = Arguments::default();
        args.flags(&[
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ]);
        // Not "pc": there the kernel interprets ACPI code for the interrupt of every PCI device,
        // 0.4 s each under software emulation.
        args.flags(&["-machine", "q35"]);
        args.flags(&self.accel.arguments());
        args.flags(&["-smp", &self.cpus.to_string()]);
        args.flags(&["-m", &format!("{}M", self.memory_mib)]);
        args.path("-kernel", "", &self.kernel);
        args.path("-initrd", "", &self.initramfs);
        args.flags(&["-append", &self.command_line()]);
        let socket = |id: &str| format!("socket,server=on,wait=off,id={id},path=");
        // A socket, so that a hanging kernel can be asked over it; the log is what is read.
        args.path("-chardev", &socket(CONSOLE), &socket_dir.join(CONSOLE));
        args.append_path(",logfile=", &self.console_path());
        args.flags(&["-serial", &format!("chardev:{CONSOLE}")]);
        args.path("-chardev", &socket("qmp"), &socket_dir.join(QMP_SOCKET));
        args.flags(&["-mon", "chardev=qmp,mode=control"]);
        args.path("-chardev", &socket("agent"), &socket_dir.join(AGENT_SOCKET));
        args.flags(&["-device", "virtio-serial-pci"]);
        args.flags(&[
            "-device",
            &format!("virtserialport,chardev=agent,name={PORT_NAME}"),
        ]);
        for (index, disk) in self.disks.iter().enumerate() {
            args.disk(index, disk);
        }
        args.0
    }

    fn command_line(&self) -> String {
        // An oops must not leave a half-dead guest that looks like a hang, and a panic must end
        // QEMU (which does not reboot) once its trace is on the console.
        //
        // The check of the timer counts ticks while the CPU spins; on a busy host an emulated CPU
        // sees too few, and the kernel then gives the timer up ("8254 timer not connected to
        // IO-APIC", and in one boot of 150 of 7.2 nothing more).
        //
        // Without a word about it the kernel distrusts the emulated TSC and takes the time from the
        // HPET, each time with an exit to the emulator and its global lock: more than half of all
        // samples of a guest under load were there. The emulator's TSC is one clock for all CPUs.
        //
        // One CPU until the guest's init starts the others: while a kernel boots it patches its own
        // code most, and QEMU before 8.1 now and then keeps executing the old code on another CPU
        // (seen with 7.2 as "Oops: int3" in one boot of 30).
        let clock = match self.accel {
            Accel::Tcg => "tsc=reliable ",
            Accel::Kvm => "",
        };
        format!(
            "console=ttyS0 loglevel={CONSOLE_LEVEL} log_buf_len={LOG_RING} panic=-1 oops=panic \
             sysrq_always_enabled=1 no_timer_check maxcpus=1 noreplace-smp nokaslr \
             mitigations=off random.trust_cpu=on audit=0 8250.nr_uarts=1 {clock}{}",
            self.kernel_parameters
        )
    }
}

/// Socket of QMP in the socket folder.
pub const QMP_SOCKET: &str = "qmp";

/// Name of the serial console's device, and of its socket in the socket folder.
pub const CONSOLE: &str = "console";

/// Socket of the agent's port in the socket folder.
pub const AGENT_SOCKET: &str = "agent";

/// What the guest's disks are called in the monitor.
#[must_use]
pub fn device_id(index: usize) -> String {
    format!("disk{index}")
}

/// The node that a disk with a witness is attached to.
#[must_use]
pub fn top_node(index: usize) -> String {
    format!("top{index}")
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn path(&mut self, flag: &str, prefix: &str, path: &Path) {
        let mut value = OsString::from(prefix);
        // In option values a comma is written twice; plain file arguments are taken as they are.
        if prefix.is_empty() {
            value.push(path);
        } else {
            value.push(path.to_string_lossy().replace(',', ",,"));
        }
        self.0.extend([OsString::from(flag), value]);
    }

    /// Adds a further path to the value of the last option.
    fn append_path(&mut self, name: &str, path: &Path) {
        if let Some(value) = self.0.last_mut() {
            value.push(name);
            value.push(path.to_string_lossy().replace(',', ",,"));
        }
    }

    /// The host's page cache does not matter after a crash of the host, so the files ignore
    /// flushes; the witness still records those of the guest, because it sits above.
    fn disk(&mut self, index: usize, disk: &Disk) {
        let file = |id: &str| {
            format!("driver=file,cache.no-flush=on,discard=unmap,node-name={id},filename=")
        };
        let (data, log, top) = (
            format!("data{index}"),
            format!("log{index}"),
            top_node(index),
        );
        self.path("-blockdev", &file(&data), &disk.image);
        let drive = match &disk.witness {
            None => data,
            Some(witness) => {
                self.path("-blockdev", &file(&log), witness);
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
            Bus::Virtio => "virtio-blk-pci",
            Bus::Scsi => {
                self.flags(&["-device", "virtio-scsi-pci"]);
                "scsi-hd"
            }
            Bus::Nvme => "nvme,serial=cowbird",
        };
        let bytes = disk.logical_block_bytes;
        self.flags(&[
            "-device",
            &format!(
                "{device},id={},drive={drive},logical_block_size={bytes},\
                 physical_block_size={bytes}",
                device_id(index)
            ),
        ]);
    }
}
