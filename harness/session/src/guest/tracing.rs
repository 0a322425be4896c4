//! The tracer beside a case: it records from the moment at which the module is loaded until it is unloaded, because
//! while it records the module's events the module cannot go.

use std::fs::File;
use std::io::Write;

use cowbird_checks::tracing::{BEGINS, ENDS, Recording, boundary_marker};
use cowbird_host::error::{HarnessError, PathContext};
use cowbird_host::initramfs::{TRACER, TRACER_TRIAL};
use cowbird_model::{Epoch, MarkerKey};
use cowbird_proto::message::{Reply, Request, StreamTarget, StreamsSpec, WorkloadId, WorkloadSpec};

use super::{CaseError, CaseResult, GuestSession, MAX_PAGES, unexpected};

/// Where the trace is in the guest.
const TRACE: &str = "/tmp/cell.cbt";

/// Bytes between the recorder and its file: a guest without a second of its own for the recorder must not
/// lose an event.
const RING: &str = "32M";

/// How `doctor` ends on a kernel on which nobody should record.
const MUST_NOT_RECORD: i32 = 5;

impl GuestSession<'_, '_> {
    /// Begins a recording, if this cell is traced. A tracer that does not begin is no fault of the case.
    pub async fn start_tracing(&mut self) -> CaseResult<()> {
        let Some(tracing) = &mut self.tracing else {
            return Ok(());
        };
        let number = tracing.recordings.begun;
        tracing.recordings.begun += 1;
        // All devices: limited to one, the tracer can only bound what a kernel that preempts programs may have
        // lost, because it cannot tell whose event was passed over.
        let mut arguments = vec!["--tracer", TRACER, "record-start", TRACE, "--fingerprints"];
        // The witness has the contents, to be compared with their fingerprints.
        arguments.extend(["--plain-fingerprints", "--ring-size", RING]);
        self.expect_tracer().await?;
        if let Err(reason) = self.run_tracer(&arguments).await? {
            self.fail_tracing(format!("recording {number} did not begin: {reason}"));
            return Ok(());
        }
        self.write_boundary_markers(number, BEGINS).await?;
        if let Some(tracing) = &mut self.tracing {
            tracing.recordings.running = Some((number, Default::default()));
        }
        Ok(())
    }

    /// Ends a case on a kernel that the tracer itself says it would harm.
    pub async fn expect_tracer(&mut self) -> CaseResult<()> {
        let exited = self.run_to_any_end(TRACER, &["doctor"]).await?;
        if exited.code == Some(MUST_NOT_RECORD) {
            let finding = exited.stdout.lines().find_map(|it| it.strip_prefix("FAIL"));
            let reason = finding.unwrap_or_default().trim().to_owned();
            return Err(CaseError::Unsupported(reason));
        }
        Ok(())
    }

    /// Ends the recording under way, if there is one, and takes its trace out of the guest.
    pub async fn stop_tracing(&mut self) -> CaseResult<()> {
        let running = self.tracing.as_mut();
        let Some((number, instants)) = running.and_then(|t| t.recordings.running.take()) else {
            return Ok(());
        };
        self.write_boundary_markers(number, ENDS).await?;
        let arguments = ["--tracer", TRACER, "record-stop", TRACE];
        if let Err(reason) = self.run_tracer(&arguments).await? {
            self.fail_tracing(format!("recording {number} did not end: {reason}"));
            return Ok(());
        }
        let file = self.machine.files().dir.join(format!("trace-{number}.cbt"));
        self.fetch(TRACE, &file).await?;
        let boot = self.earlier.count;
        if let Some(tracing) = &mut self.tracing {
            tracing.recordings.ended.push(Recording {
                number,
                file,
                boot,
                instants,
            });
        }
        Ok(())
    }

    /// The guest is about to lose its power, and the trace with it.
    pub(super) fn lose_tracing(&mut self) {
        let Some(tracing) = &mut self.tracing else {
            return;
        };
        if let Some((number, _)) = tracing.recordings.running.take() {
            let reason = format!("recording {number} went with the power of its guest");
            tracing.recordings.omissions.push(reason);
        }
    }

    /// The control tool reported a snapshot instant.
    pub(super) fn note_instant(&mut self, minor: u32, key: &MarkerKey) {
        let running = self.tracing.as_mut();
        if let Some((_, instants)) = running.and_then(|t| t.recordings.running.as_mut()) {
            let Epoch(epoch) = key.epoch;
            instants.insert((minor, Epoch(epoch)));
        }
    }

    /// What matters of a workload: which devices it writes to, and how.
    pub(super) fn note_workload(&mut self, id: WorkloadId, spec: &WorkloadSpec) {
        if let Some(tracing) = &mut self.tracing {
            tracing.targets.insert(id, targets_of(spec));
            tracing.pages_may_change |= match spec {
                WorkloadSpec::RawWriters(_)
                | WorkloadSpec::FsChurn(_)
                | WorkloadSpec::FsOps(_)
                | WorkloadSpec::Programs(_) => true,
                WorkloadSpec::WriteKinds(spec) => spec.fstype.is_none(),
                _ => false,
            };
        }
    }

    fn fail_tracing(&mut self, reason: String) {
        if let Some(tracing) = &mut self.tracing {
            tracing.recordings.failures.push(reason);
        }
    }

    async fn run_tracer(&mut self, arguments: &[&str]) -> CaseResult<Result<(), String>> {
        let exited = self.run_to_any_end(TRACER_TRIAL, arguments).await?;
        Ok(match exited.code {
            Some(0) => Ok(()),
            _ => Err(exited.stderr.trim().replace('\n', " / ")),
        })
    }

    async fn write_boundary_markers(&mut self, number: usize, end: &str) -> CaseResult<()> {
        let disks = self.tracing.as_ref().map(|tracing| tracing.disks.clone());
        for disk in disks.into_iter().flatten() {
            let mark = boundary_marker(&disk, number, end);
            let request = Request::WriteDirect {
                path: disk.path(),
                offset: mark.range.start.0 * cowbird_model::SECTOR_BYTES as u64,
                content: mark.content,
            };
            self.prepare(request).await?;
        }
        Ok(())
    }

    /// Copies a file of the guest to the host.
    async fn fetch(&mut self, path: &str, to: &std::path::Path) -> CaseResult<()> {
        let mut file = File::create(to).on("create", to)?;
        let mut from_byte = 0;
        for _ in 0..MAX_PAGES {
            let request = Request::ReadPart {
                path: path.into(),
                from_byte,
            };
            let reply = self.prepare(request).await?;
            let Reply::Content(part) = reply else {
                return Err(unexpected(&reply));
            };
            if part.is_empty() {
                return Ok(());
            }
            file.write_all(&part).on("write", to)?;
            from_byte += part.len() as u64;
        }
        let detail = format!("{path} has more than {from_byte} bytes");
        Err(CaseError::from(HarnessError::Plan { detail }))
    }
}

/// The devices that a workload writes to without a filesystem.
fn targets_of(spec: &WorkloadSpec) -> Vec<String> {
    match spec {
        WorkloadSpec::RawWriters(spec) => vec![spec.device.clone()],
        WorkloadSpec::Hot(spec) => vec![spec.origin.clone()],
        WorkloadSpec::WriteKinds(spec) if spec.fstype.is_none() => vec![spec.target.clone()],
        WorkloadSpec::Throttled(spec) => vec![spec.device.clone()],
        WorkloadSpec::Stopwatch(spec) => vec![spec.device.clone()],
        WorkloadSpec::LockstepWriters(spec) => spec.devices.to_vec(),
        WorkloadSpec::Recorded(spec) => vec![spec.device.clone()],
        WorkloadSpec::Streams(StreamsSpec {
            target: StreamTarget::Devices(devices),
            ..
        }) => devices.clone(),
        WorkloadSpec::Timed(spec) => spec.devices.clone(),
        WorkloadSpec::Streams(_)
        | WorkloadSpec::Swapper(_)
        | WorkloadSpec::Poll(_)
        | WorkloadSpec::WriteKinds(_)
        | WorkloadSpec::FsChurn(_)
        | WorkloadSpec::FsOps(_)
        | WorkloadSpec::Programs(_)
        | WorkloadSpec::Noise(_) => Vec::new(),
    }
}
