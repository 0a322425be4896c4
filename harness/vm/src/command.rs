//! The command line of QEMU: data in, arguments out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cowbird_host::limits::{
    MAX_CONSOLE_FILE_BYTES, MAX_SAID_BYTES, MAX_TAPE_BYTES, MAX_WITNESS_BYTES,
};
use cowbird_proto::{PORT_NAME, SEND_PORT_NAME};

use crate::accel::Accel;
use crate::arguments::Arguments;
use crate::disks::Disk;
use crate::emulator::Emulator;
use crate::host_clock;

/// Console messages up to this level (exclusive) go to the serial console. Warnings included;
/// every character costs an exit under software emulation, so not more.
const CONSOLE_LEVEL: u32 = 5;

/// Ring of the kernel log: nothing of a cell may be overwritten before it is read.
const LOG_RING: &str = "4M";

/// Time of a taped guest in which it executes one instruction, as a power of two, ns. With 8 ns a second of it has
/// about as many instructions as emulation executes in one.
const TAPE_ICOUNT_SHIFT: u32 = 3;

/// How many of the devices that `-serial` makes a PC takes as its own serial ports.
const PC_SERIAL_PORTS: usize = 4;

/// Virtual CPUs of a guest unless the plan says otherwise. Two: a race needs two.
pub const DEFAULT_CPUS: u32 = 2;

/// Memory of a guest unless the plan says otherwise, MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 1024;

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
    /// Which QEMU runs it.
    pub emulator: Emulator,
    /// What is done with a tape of it, if there is one.
    pub tape: Option<TapeMode>,
    /// Whether it has a terminal, [`TERMINAL`], beside its serial console. A taped guest has none.
    pub terminal: bool,
}

/// What is done with the tape of a guest: QEMU's log of all that reaches it from outside, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapeMode {
    /// It is made.
    Record,
    /// It is played.
    Replay,
}

impl TapeMode {
    fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Replay => "replay",
        }
    }
}

impl VmConfig {
    /// The serial console is written here.
    #[must_use]
    pub fn console_path(&self) -> PathBuf {
        self.work_dir.join(CONSOLE_FILE)
    }

    /// QEMU's own messages are written here.
    #[must_use]
    pub fn qemu_log_path(&self) -> PathBuf {
        self.work_dir.join(QEMU_LOG_FILE)
    }

    /// What a taped guest sends to the host is written here.
    #[must_use]
    pub fn said_path(&self) -> PathBuf {
        self.work_dir.join(SAID_FILE)
    }

    /// What a taped guest is asked is written here.
    #[must_use]
    pub fn asked_path(&self) -> PathBuf {
        self.work_dir.join(ASKED_FILE)
    }

    /// The tape.
    #[must_use]
    pub fn tape_path(&self) -> PathBuf {
        self.work_dir.join(TAPE_FILE)
    }

    /// The files that grow with what the guest does, and how large each may become.
    #[must_use]
    pub fn growing_files(&self) -> Vec<(PathBuf, u64)> {
        let witnesses = self.disks.iter().filter_map(|disk| disk.witness.clone());
        let mut files: Vec<_> = witnesses.map(|path| (path, MAX_WITNESS_BYTES)).collect();
        let texts = [self.console_path(), self.qemu_log_path()];
        files.extend(texts.map(|path| (path, MAX_CONSOLE_FILE_BYTES)));
        if self.tape.is_some() {
            files.push((self.tape_path(), MAX_TAPE_BYTES));
            files.push((self.said_path(), MAX_SAID_BYTES));
        }
        files
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
        args.flags(&self.accel.arguments(self.tape.is_some()));
        args.flags(&["-smp", &self.cpus.to_string()]);
        args.flags(&["-m", &format!("{}M", self.memory_mib)]);
        args.path("-kernel", "", &self.kernel);
        args.path("-initrd", "", &self.initramfs);
        args.flags(&["-append", &self.command_line()]);
        args.path("-chardev", &socket("qmp"), &socket_dir.join(QMP_SOCKET));
        args.flags(&["-mon", "chardev=qmp,mode=control"]);
        match self.tape {
            None => self.channels(socket_dir, &mut args),
            Some(mode) => self.taped_channels(mode, socket_dir, &mut args),
        }
        for (index, disk) in self.disks.iter().enumerate() {
            args.disk(index, disk, self.tape.is_some());
        }
        args.into_inner()
    }

    /// The console and the agent's port.
    fn channels(&self, socket_dir: &Path, args: &mut Arguments) {
        // A socket, so that a hanging kernel can be asked over it; the log is what is read.
        args.path("-chardev", &socket(CONSOLE), &socket_dir.join(CONSOLE));
        args.append_path(",logfile=", &self.console_path());
        args.flags(&["-serial", &format!("chardev:{CONSOLE}")]);
        args.path("-chardev", &socket("agent"), &socket_dir.join(AGENT_SOCKET));
        args.flags(&["-device", "virtio-serial-pci"]);
        if self.terminal {
            let path = socket_dir.join(TERMINAL_SOCKET);
            args.path("-chardev", &socket(TERMINAL_SOCKET), &path);
            let device = format!("virtconsole,chardev={TERMINAL_SOCKET}");
            args.flags(&["-device", &device]);
        }
        args.port("agent", PORT_NAME);
    }

    /// The tape, the console and the agent's ports. Of all character devices only those that `-serial` makes are on the
    /// tape; the agent has the first two of them that the PC leaves.
    ///
    /// What the guest sends goes to files, which never make it wait: how long a socket would is not on the tape. What it
    /// is asked comes from a socket that is connected before the guest starts, and at a replay from the tape.
    fn taped_channels(&self, mode: TapeMode, socket_dir: &Path, args: &mut Arguments) {
        let how = format!("shift={TAPE_ICOUNT_SHIFT},rr={},rrfile=", mode.name());
        args.path("-icount", &how, &self.tape_path());
        args.plain_path("-serial", "file:", &self.console_path());
        for _ in 1..PC_SERIAL_PORTS {
            args.flags(&["-serial", "none"]);
        }
        match mode {
            TapeMode::Record => {
                args.path("-serial", "unix:", &socket_dir.join(AGENT_SOCKET));
                args.append(",server=on,wait=on");
            }
            TapeMode::Replay => args.flags(&["-serial", "file:/dev/null"]),
        }
        args.plain_path("-serial", "file:", &self.said_path());
        args.flags(&["-device", "virtio-serial-pci,ioeventfd=off"]);
        let serial = |more: usize| format!("serial{}", PC_SERIAL_PORTS + more);
        // The one to send on first: a guest that finds the other one finds it too.
        args.port(&serial(1), SEND_PORT_NAME);
        args.port(&serial(0), PORT_NAME);
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
        // samples of a guest under load were there. The emulator's TSC is one clock for all CPUs: the host's own,
        // whose frequency is given, because a kernel that measures it on a busy host may be wrong by a factor of
        // 15 to 48 (seen with 5.10), and then all its time limits are. On a tape time is counted in instructions.
        //
        // One CPU until the guest's init starts the others: while a kernel boots it patches its own
        // code most, and QEMU before 8.1 now and then keeps executing the old code on another CPU
        // (seen with 7.2 as "Oops: int3" in one boot of 30).
        let frequency = match self.tape {
            Some(_) => None,
            None => host_clock::tsc_khz(),
        };
        let clock = match (self.accel, frequency) {
            (Accel::Tcg, Some(khz)) => format!("tsc=reliable tsc_early_khz={khz} "),
            (Accel::Tcg, None) => "tsc=reliable ".to_owned(),
            (Accel::Kvm, _) => String::new(),
        };
        format!(
            "console=ttyS0 loglevel={CONSOLE_LEVEL} log_buf_len={LOG_RING} panic=-1 oops=panic \
             sysrq_always_enabled=1 no_timer_check maxcpus=1 noreplace-smp nokaslr \
             mitigations=off random.trust_cpu=on audit=0 8250.nr_uarts=1 {clock}{}",
            self.kernel_parameters
        )
    }
}

/// The serial console in the work folder.
pub const CONSOLE_FILE: &str = "console.txt";

/// QEMU's own messages in the work folder.
pub const QEMU_LOG_FILE: &str = "qemu.txt";

/// The registers of a guest that hangs.
pub const REGISTERS_FILE: &str = "registers.txt";

/// What a taped guest was asked.
pub const ASKED_FILE: &str = "asked.bin";

/// What a taped guest said.
pub const SAID_FILE: &str = "said.bin";

/// The tape in the work folder.
pub const TAPE_FILE: &str = "tape.rr";

/// Socket of QMP in the socket folder.
pub const QMP_SOCKET: &str = "qmp";

/// Name of the serial console's device, and of its socket in the socket folder.
pub const CONSOLE: &str = "console";

/// Socket of the agent's port in the socket folder.
pub const AGENT_SOCKET: &str = "agent";

/// Socket of the terminal in the socket folder.
pub const TERMINAL_SOCKET: &str = "terminal";

/// The terminal in the guest.
pub const TERMINAL: &str = "/dev/hvc0";

fn socket(id: &str) -> String {
    format!("socket,server=on,wait=off,id={id},path=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::Bus;

    fn arguments(tape: Option<TapeMode>) -> Vec<String> {
        arguments_with(tape, false)
    }

    fn config(tape: Option<TapeMode>, terminal: bool) -> VmConfig {
        let disk = Disk {
            image: "/w/origin.raw".into(),
            witness: Some("/w/witness.log".into()),
            bus: Bus::Virtio,
            logical_block_bytes: 512,
        };
        VmConfig {
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_parameters: String::new(),
            disks: vec![disk],
            cpus: 1,
            memory_mib: 64,
            accel: Accel::Tcg,
            work_dir: "/w,x".into(),
            emulator: Emulator::Host,
            tape,
            terminal,
        }
    }

    fn arguments_with(tape: Option<TapeMode>, terminal: bool) -> Vec<String> {
        let arguments = config(tape, terminal).arguments(Path::new("/s"));
        let text = arguments.iter().map(|a| a.to_string_lossy().into_owned());
        text.collect()
    }

    fn values(arguments: &[String], flag: &str) -> Vec<String> {
        let pairs = arguments.windows(2).filter(|pair| pair[0] == flag);
        pairs.map(|pair| pair[1].clone()).collect()
    }

    /// Goal: whatever a guest can make grow has a limit. Method: each file that QEMU writes, as its command line names it.
    #[test]
    fn whatever_grows_has_a_limit() {
        for tape in [None, Some(TapeMode::Record), Some(TapeMode::Replay)] {
            let config = config(tape, false);
            let mut bounded: Vec<_> = config.growing_files();
            bounded.retain(|(_, most)| *most < u64::MAX);
            let is_bounded = |name: &str| bounded.iter().any(|(path, _)| path.ends_with(name));
            assert!(is_bounded(QEMU_LOG_FILE));
            let names = ["witness.log", CONSOLE_FILE, SAID_FILE, TAPE_FILE];
            let line = arguments_with(tape, false).join(" ");
            let written = names.into_iter().filter(|name| line.contains(name));
            for name in written {
                assert!(is_bounded(name), "{name} of {tape:?}");
            }
        }
    }

    /// Goal: nothing of a tape is in the command line of a cell without one.
    #[test]
    fn without_a_tape_there_is_none() {
        let arguments = arguments(None);
        let words = ["-icount", "blkreplay", "ioeventfd", "thread=single"];
        for argument in &arguments {
            assert!(
                !words.iter().any(|word| argument.contains(word)),
                "{argument}"
            );
        }
    }

    /// Goal: a guest has a terminal only where somebody works in it: `hvc0`, which is the first console of the bus.
    #[test]
    fn a_terminal_is_there_when_asked_for() {
        let consoles = |terminal| {
            let devices = values(&arguments_with(None, terminal), "-device");
            let of_bus = devices
                .into_iter()
                .filter(|device| device.starts_with("virt"));
            of_bus.take(2).collect::<Vec<_>>()
        };
        assert_eq!(
            consoles(true),
            ["virtio-serial-pci", "virtconsole,chardev=terminal"]
        );
        let without = consoles(false);
        assert!(without[1].starts_with("virtserialport"), "{without:?}");
    }

    /// Goal: everything that reaches a taped guest from outside is on the tape, and at the replay comes from there
    /// alone; the devices are the same.
    #[test]
    fn a_tape_has_all_that_comes_from_outside() {
        let (made, played) = (
            arguments(Some(TapeMode::Record)),
            arguments(Some(TapeMode::Replay)),
        );
        assert_eq!(
            values(&made, "-icount"),
            ["shift=3,rr=record,rrfile=/w,,x/tape.rr"]
        );
        assert_eq!(
            values(&played, "-icount"),
            ["shift=3,rr=replay,rrfile=/w,,x/tape.rr"]
        );
        let none = ["none"; PC_SERIAL_PORTS - 1];
        let serials = |asked| {
            [
                &["file:/w,x/console.txt"],
                &none[..],
                &[asked, "file:/w,x/said.bin"],
            ]
            .concat()
        };
        let socket = "unix:/s/agent,server=on,wait=on";
        assert_eq!(values(&made, "-serial"), serials(socket));
        assert_eq!(values(&played, "-serial"), serials("file:/dev/null"));
        for flag in ["-device", "-blockdev", "-cpu", "-smp", "-m", "-append"] {
            assert_eq!(values(&made, flag), values(&played, flag), "{flag}");
        }
        let nodes = values(&made, "-blockdev");
        let top = nodes.last().expect("the disk has nodes");
        assert!(top.contains("file=taped-data0,log=taped-log0"), "{top}");
        for node in ["data0", "log0"] {
            let taped =
                format!("driver=blkreplay,node-name=taped-{node},image={node},discard=unmap");
            assert!(nodes.contains(&taped), "{nodes:?}");
        }
    }
}
