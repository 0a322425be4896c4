//! The agent: answers the host's requests, each on its own thread.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cowbird_guest_system::clock::uptime_ns;
use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::port::Port;
use cowbird_guest_system::{files, mounts, programs};
use cowbird_proto::message::{Event, FromGuest, Hello, Reply, Request, RequestId, ToGuest};
use rustix::system::{RebootCommand, reboot, uname};

use crate::memory_pressure::MemoryPressure;
use crate::mount_pin::MountPin;
use crate::{hibernate, kernel_log, ops, script, stack, symbols};
use cowbird_guest_workloads::Workloads;

/// Requests served at the same time; more are refused.
const MAX_REQUESTS: usize = 32;

/// Pause between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Pause after the last answer, so that it leaves the guest before the power goes.
const POWER_OFF_PAUSE: Duration = Duration::from_millis(50);

/// What the module says about itself.
const INFO_PATH: &str = "/proc/cowbird-info";

/// Everything that a request needs.
pub struct Agent {
    port: Arc<Port>,
    in_flight: AtomicUsize,
    workloads: Workloads,
    mount_pin: MountPin,
    memory_pressure: MemoryPressure,
}

/// Serves requests until the guest ends. Returning would be taken for a lost agent, rightly.
pub fn run() {
    protect_from_oom();
    let (port, mut reader) = match Port::open() {
        Ok(opened) => opened,
        Err(error) => return cowbird_guest_system::say!("cowbird-guest: {error}"),
    };
    port.send(&FromGuest::Hello(hello()));
    let workloads = Workloads::default();
    let agent = Arc::new(Agent {
        port: Arc::clone(&port),
        in_flight: AtomicUsize::new(0),
        workloads,
        mount_pin: MountPin::default(),
        memory_pressure: MemoryPressure::default(),
    });
    std::thread::spawn(move || {
        loop {
            port.event(Event::Heartbeat {
                uptime_ms: uptime_ns() / 1_000_000,
            });
            std::thread::sleep(HEARTBEAT);
        }
    });
    loop {
        match reader.next_message() {
            Ok(ToGuest::Request { id, request }) => Agent::serve(&agent, id, request),
            Err(error) => return cowbird_guest_system::say!("cowbird-guest: {error}"),
        }
    }
}

impl Agent {
    fn serve(agent: &Arc<Self>, id: RequestId, request: Request) {
        if agent.in_flight.fetch_add(1, Ordering::AcqRel) >= MAX_REQUESTS {
            agent.answer(
                id,
                Err(failure(format!("{MAX_REQUESTS} requests are in flight"))),
            );
            return;
        }
        let agent = Arc::clone(agent);
        std::thread::spawn(move || {
            let power_off = matches!(request, Request::PowerOff | Request::PowerOffNow);
            let result = agent.handle(request);
            agent.answer(id, result);
            if power_off {
                std::thread::sleep(POWER_OFF_PAUSE);
                let error = reboot(RebootCommand::PowerOff).err();
                agent.port.log(format!("power off failed: {error:?}"));
            }
        });
    }

    fn answer(&self, id: RequestId, result: GuestResult<Reply>) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.port.send(&FromGuest::Response { id, result });
    }

    fn handle(&self, request: Request) -> GuestResult<Reply> {
        let done = |()| Reply::Done;
        match request {
            Request::Ping => Ok(Reply::Done),
            Request::InsertModule { path, params } => ops::insert_module(&path, &params).map(done),
            Request::RemoveModule { name } => ops::remove_module(&name).map(done),
            Request::Run {
                program,
                args,
                timeout_ms,
            } => self.run(&program, &args, Duration::from_millis(timeout_ms)),
            Request::RunAndKill {
                program,
                args,
                after_ms,
                timeout_ms,
            } => {
                let (after, limit) = (
                    Duration::from_millis(after_ms),
                    Duration::from_millis(timeout_ms),
                );
                programs::run_and_kill(&program, &args, after, limit).map(Reply::Exited)
            }
            Request::Hibernate { device } => {
                hibernate::hibernate(&device, &self.port).map(Reply::Text)
            }
            Request::ShiftClock { seconds } => ops::shift_clock(seconds).map(done),
            Request::TakeMemory { leave_mib } => self.memory_pressure.take(leave_mib).map(done),
            Request::GiveMemory => {
                self.memory_pressure.give();
                Ok(Reply::Done)
            }
            Request::Remount { target, read_only } => mounts::remount(&target, read_only).map(done),
            Request::GrowExt4 { path, blocks } => ops::grow_ext4(&path, blocks).map(done),
            Request::Mount { spec } => mounts::mount(&spec).map(done),
            Request::Umount { target } => mounts::unmount(&target).map(done),
            Request::Freeze { path } => ops::freeze(&path).map(done),
            Request::Thaw { path } => ops::thaw(&path).map(done),
            Request::Stack { devices, kind } => stack::stack(&devices, kind),
            Request::Detach { target } => mounts::detach(&target).map(done),
            Request::ReplaceByCopy { path, kept } => ops::replace_by_copy(&path, &kept).map(done),
            Request::RemoveFile { path } => ops::remove_file(&path).map(done),
            Request::Hold { file, by } => self.mount_pin.hold(file, by).map(done),
            Request::WriteHeld { bytes } => self.mount_pin.write(bytes).map(done),
            Request::LetGo => self.mount_pin.let_go().map(done),
            Request::InjectFaults {
                device,
                sectors,
                pieces,
            } => stack::inject_faults(&device, sectors, &pieces).map(done),
            Request::Unstack { kind } => stack::unstack(kind).map(done),
            Request::Fiemap { path, from_byte } => ops::fiemap(&path, from_byte),
            Request::SizeOf { path } => files::size_of(&path).map(Reply::Bytes),
            Request::ReadText { path } => files::read_text(&path).map(Reply::Text),
            Request::ReadFile { path } => files::read_file(&path).map(Reply::Content),
            Request::ReadPart { path, from_byte } => {
                files::read_part(&path, from_byte).map(Reply::Content)
            }
            Request::WriteDirect {
                path,
                offset,
                content,
            } => ops::write_direct(&path, offset, &content).map(done),
            Request::ZeroOut {
                path,
                offset,
                bytes,
            } => ops::zero_out(&path, offset, bytes).map(done),
            Request::WriteText { path, text } => files::write_text(&path, &text).map(done),
            Request::NameAddresses { addresses } => symbols::names(&addresses).map(Reply::Names),
            Request::ReadInfo => files::read_text(INFO_PATH).map(Reply::Text),
            Request::CopyDevice {
                from,
                bytes,
                to,
                to_byte,
                chunk_bytes,
            } => {
                ops::copy_device(&from, bytes, &to, to_byte, chunk_bytes as usize).map(Reply::Bytes)
            }
            Request::ChangePartition {
                disk,
                number,
                change,
            } => ops::change_partition(&disk, number, change).map(done),
            Request::ReadPartitions { disk } => ops::read_partitions(&disk).map(done),
            Request::MakeDirty { path, pages, seed } => {
                ops::make_dirty(&path, pages, seed).map(done)
            }
            Request::Perform { spec } => script::perform(spec).map(Reply::Performed),
            Request::KernelLog { after } => kernel_log::page(after),
            Request::DumpBlockedTasks => sysrq('w').map(done),
            Request::SyncAll | Request::PowerOff => {
                rustix::fs::sync();
                Ok(Reply::Done)
            }
            Request::PowerOffNow => Ok(Reply::Done),
            Request::Timed { request } => {
                let begin = Instant::now();
                let result = self.handle(*request).map(Box::new);
                Ok(Reply::Timed {
                    took_us: begin.elapsed().as_micros() as u64,
                    result,
                })
            }
            Request::CrashKernel => sysrq('c').map(done),
            Request::GoSilent => self.port.silence(),
            Request::StartWorkload { spec } => self.workloads.start(&self.port, spec),
            Request::WorkloadStatus { id } => self.workloads.status(id),
            Request::EpochPassed { id, chase } => self.workloads.epoch_passed(id, chase),
            Request::StopWorkload { id } => self.workloads.stop(id),
        }
    }
}

impl Agent {
    fn run(&self, program: &str, args: &[String], limit: Duration) -> GuestResult<Reply> {
        let started_ns = uptime_ns();
        let exited = programs::run_program(program, args, limit)?;
        self.port.event(Event::Ran {
            command: format!("{program} {}", args.join(" ")),
            started_ns,
            ended_ns: uptime_ns(),
        });
        Ok(Reply::Exited(exited))
    }
}

fn sysrq(key: char) -> GuestResult<()> {
    fs::write("/proc/sys/kernel/sysrq", "1").context("allow sysrq")?;
    fs::write("/proc/sysrq-trigger", key.to_string()).context(format_args!("sysrq {key}"))
}

fn hello() -> Hello {
    Hello {
        kernel_release: uname().release().to_string_lossy().into_owned(),
        command_line: fs::read_to_string("/proc/cmdline")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        boot_ms: uptime_ns() / 1_000_000,
        cpus: std::thread::available_parallelism().map_or(0, |count| count.get() as u32),
    }
}

/// A module that eats memory must not get the agent killed: that would hide the true culprit.
fn protect_from_oom() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        cowbird_guest_system::say!("cowbird-guest: oom_score_adj: {error}");
    }
}
