//! Snapshots, in the words of a case: what the control tool is asked for, and what the module says.

use cowbird_checks::change_map::ChangeMap;
use cowbird_host::error::HarnessError;
use cowbird_host::initramfs::COWBIRDCTL;
use cowbird_model::{BlockIndex, BlockSet, Epoch, MarkerKey};
use cowbird_proto::message::{Extent, Reply, Request};
use cowbird_vm::CallError;
use serde::Deserialize;

use super::module_info::{DeviceInfo, ModuleInfo};
use super::series_record::{RECORDS, SeriesRecord, is_record};
use super::{CaseError, CaseResult, ENOENT, GuestSession, MAX_PAGES, unexpected};

/// Size of a block, bytes.
const BLOCK_BYTES: u64 = 4096;

/// A snapshot to be taken.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotSpec {
    /// Origin in the guest.
    pub origin: &'static str,
    /// COW file in the guest.
    pub cow_file: &'static str,
    /// Size of the COW file, MiB.
    pub cow_mib: u32,
    /// Preserved blocks kept in memory at most, MiB.
    pub cache_mib: u32,
    /// Number of the snapshot device.
    pub minor: u32,
}

/// What the control tool says of an image, beside it.
#[derive(Deserialize)]
struct ImageLabel {
    epoch: u64,
    complete: bool,
}

impl GuestSession<'_, '_> {
    /// Takes a snapshot with the control tool, and gives what identifies the instant.
    pub async fn setup_snapshot(&mut self, spec: SnapshotSpec) -> CaseResult<MarkerKey> {
        let SnapshotSpec {
            origin,
            cow_file,
            cow_mib,
            cache_mib,
            minor,
        } = spec;
        self.control(&format!(
            "setup-snapshot -c {cache_mib} -f {cow_mib} {origin} {cow_file} {minor}"
        ))
        .await?;
        self.marker_of(minor).await
    }

    /// Takes snapshots at one instant with the control tool; the first one's sizes are those of all.
    pub async fn setup_snapshots(&mut self, specs: &[SnapshotSpec]) -> CaseResult<Vec<MarkerKey>> {
        let arguments = setup_arguments(specs);
        self.control(&arguments).await?;
        let minors: Vec<u32> = specs.iter().map(|spec| spec.minor).collect();
        self.markers_of(&minors).await
    }

    /// Takes the next snapshots of several series at one instant with the control tool.
    pub async fn transition_to_snapshots(&mut self, minors: &[u32]) -> CaseResult<Vec<MarkerKey>> {
        let arguments = transition_arguments(minors);
        self.control(&arguments).await?;
        self.markers_of(minors).await
    }

    async fn markers_of(&mut self, minors: &[u32]) -> CaseResult<Vec<MarkerKey>> {
        let mut markers = Vec::new();
        for minor in minors {
            markers.push(self.marker_of(*minor).await?);
        }
        Ok(markers)
    }

    /// Gives a snapshot up with the control tool; its changes go on to be tracked.
    pub async fn transition_to_incremental(&mut self, minor: u32) -> CaseResult<()> {
        self.control(&format!("transition-to-incremental {minor}"))
            .await?;
        match self.active_snapshot(minor).await?.state_name.as_str() {
            "active incremental" => Ok(()),
            other => Err(CaseError::Failed(format!("snapshot {minor} is {other}"))),
        }
    }

    /// Takes the next snapshot of the series with the control tool.
    pub async fn transition_to_snapshot(&mut self, minor: u32) -> CaseResult<MarkerKey> {
        self.control(&format!("transition-to-snapshot -c 8 {minor}"))
            .await?;
        self.marker_of(minor).await
    }

    /// Changes the bound of preserved blocks in memory with the control tool.
    pub async fn reconfigure(&mut self, minor: u32, cache_mib: u32) -> CaseResult<()> {
        self.control(&format!("reconfigure -c {cache_mib} {minor}"))
            .await
    }

    /// Expands the COW file with the control tool.
    pub async fn expand_cow_file(&mut self, minor: u32, mib: u32) -> CaseResult<()> {
        self.control(&format!("expand-cow-file --size {mib} {minor}"))
            .await
    }

    /// Has the control tool expand the COW file whenever it is about to be full, and leave `reserve_mib` free.
    pub async fn auto_expand(
        &mut self,
        minor: u32,
        step_mib: u32,
        reserve_mib: u32,
    ) -> CaseResult<()> {
        self.control(&auto_expand_arguments(minor, step_mib, reserve_mib))
            .await
    }

    /// The control tool must refuse that at once, or when it is to be done first, for a reason that names this.
    pub async fn expect_auto_expand_refusal(
        &mut self,
        minor: u32,
        step_mib: u32,
        reserve_mib: u32,
        named: &str,
    ) -> CaseResult<()> {
        let arguments = auto_expand_arguments(minor, step_mib, reserve_mib);
        self.expect_control_refusal(&format!("{arguments} --foreground"), named)
            .await
    }

    /// The control tool must refuse to expand a COW file, for a reason that names this.
    pub async fn expect_expand_refusal(&mut self, minor: u32, named: &str) -> CaseResult<()> {
        self.expect_control_refusal(&format!("expand-cow-file --size 1 {minor}"), named)
            .await
    }

    /// The control tool must refuse such a bound, for a reason that names this.
    pub async fn expect_reconfigure_refusal(
        &mut self,
        minor: u32,
        cache_mib: u32,
        named: &str,
    ) -> CaseResult<()> {
        let arguments = format!("reconfigure -c {cache_mib} {minor}");
        self.expect_control_refusal(&arguments, named).await
    }

    /// Copies a snapshot to a block device with the control tool, whatever that holds: often an image already.
    pub async fn copy_image(&mut self, snapshot: &str, image: &str) -> CaseResult<()> {
        self.control(&format!("copy-image --force {snapshot} {image}"))
            .await
    }

    /// Brings an image up to date by the changes of the last epoch, with the control tool.
    pub async fn update_image(
        &mut self,
        minor: u32,
        snapshot: &str,
        image: &str,
    ) -> CaseResult<()> {
        let map = self.change_map_file(minor).await?;
        self.control(&format!("update-image {snapshot} {map} {image}"))
            .await
    }

    /// Brings an image up to date by comparing all of it, with the control tool: how many blocks differed, and of how many.
    pub async fn compare_image(&mut self, snapshot: &str, image: &str) -> CaseResult<(u64, u64)> {
        let arguments = ["compare-image", snapshot, image];
        let exited = self.run_to_any_end(COWBIRDCTL, &arguments).await?;
        if exited.code != Some(0) {
            let said = exited.stderr.trim().replace('\n', " / ");
            return Err(CaseError::Failed(format!(
                "cowbirdctl compare-image: {said}"
            )));
        }
        let mut numbers = exited
            .stdout
            .split_whitespace()
            .filter_map(|word| word.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(differed), Some(blocks)) => Ok((differed, blocks)),
            _ => Err(CaseError::Failed(format!(
                "cowbirdctl compare-image does not say what it found: {}",
                exited.stdout
            ))),
        }
    }

    /// Puts the changes of the last epoch into a file; gives its path.
    pub async fn change_map_file(&mut self, minor: u32) -> CaseResult<String> {
        let map = format!("/changes-{minor}");
        self.control(&format!("changes {minor} --output {map}"))
            .await?;
        Ok(map)
    }

    /// Whether the control tool knows of an image that it shows this epoch, all of it.
    pub async fn shows_epoch(&mut self, image: &str, epoch: Epoch) -> CaseResult<bool> {
        let path = format!("{image}.cowbird");
        let reply = self.prepare(Request::ReadText { path }).await?;
        let Reply::Text(text) = reply else {
            return Err(unexpected(&reply));
        };
        let label: ImageLabel = serde_json::from_str(&text)
            .map_err(|error| CaseError::Failed(format!("{image}.cowbird: {error}: {text}")))?;
        Ok(label.complete && label.epoch == epoch.0)
    }

    /// As [`Self::update_image`], which the control tool must refuse, or not get done.
    pub async fn expect_update_refusal(
        &mut self,
        minor: u32,
        snapshot: &str,
        image: &str,
        named: &str,
    ) -> CaseResult<()> {
        let map = self.change_map_file(minor).await?;
        self.expect_control_refusal(&format!("update-image {snapshot} {map} {image}"), named)
            .await
    }

    /// The change map that leads to the snapshot, as the control tool gives it.
    pub async fn changes(&mut self, minor: u32) -> CaseResult<ChangeMap> {
        let path = format!("/map-{minor}");
        self.control(&format!("changes {minor} --output {path}"))
            .await?;
        let reply = self.prepare(Request::ReadFile { path }).await?;
        let Reply::Content(bytes) = reply else {
            return Err(unexpected(&reply));
        };
        ChangeMap::decode(&bytes)
            .ok_or_else(|| CaseError::Failed(format!("the change map of {minor} is damaged")))
    }

    /// The control tool must refuse a snapshot, for a reason that names this.
    pub async fn expect_refusal(&mut self, spec: SnapshotSpec, named: &str) -> CaseResult<()> {
        match self.setup_snapshot(spec).await {
            Err(CaseError::Failed(reason)) => self.judge_refusal(&reason, named),
            Ok(_) => Err(CaseError::Failed(format!(
                "a snapshot of {} was not refused, although of \"{named}\"",
                spec.origin
            ))),
            Err(error) => Err(error),
        }
    }

    /// As [`Self::expect_refusal`], of several snapshots at one instant.
    pub async fn expect_set_refusal(
        &mut self,
        specs: &[SnapshotSpec],
        named: &str,
    ) -> CaseResult<()> {
        self.expect_control_refusal(&setup_arguments(specs), named)
            .await
    }

    /// As [`Self::expect_refusal`], of the next snapshots of several series.
    pub async fn expect_transition_refusal(
        &mut self,
        minors: &[u32],
        named: &str,
    ) -> CaseResult<()> {
        self.expect_control_refusal(&transition_arguments(minors), named)
            .await
    }

    /// A copy of a snapshot must be refused.
    pub async fn expect_copy_refusal(
        &mut self,
        snapshot: &str,
        image: &str,
        named: &str,
    ) -> CaseResult<()> {
        self.expect_control_refusal(&format!("copy-image --force {snapshot} {image}"), named)
            .await
    }

    pub(super) async fn expect_control_refusal(
        &mut self,
        arguments: &str,
        named: &str,
    ) -> CaseResult<()> {
        match self.control_or_refusal(arguments).await? {
            Err(reason) => self.judge_refusal(&reason, named),
            Ok(()) => Err(CaseError::Failed(format!(
                "cowbirdctl {arguments} was not refused, although of \"{named}\""
            ))),
        }
    }

    fn judge_refusal(&mut self, reason: &str, named: &str) -> CaseResult<()> {
        if reason.contains(named) {
            self.note(format!("refused as it must be: {reason}"));
            return Ok(());
        }
        Err(CaseError::Failed(format!(
            "the refusal does not name \"{named}\": {reason}"
        )))
    }

    /// Hands the COW file over again with the control tool, after its filesystem was mounted; what the
    /// tool says when the module refuses it.
    pub async fn verify(&mut self, minor: u32) -> CaseResult<Result<(), String>> {
        self.control_or_refusal(&format!("verify {minor}")).await
    }

    /// Puts a series away with the control tool.
    pub async fn suspend(&mut self, minor: u32) -> CaseResult<()> {
        self.control(&format!("suspend {minor}")).await
    }

    /// Takes up again with the control tool whatever is remembered; what the tool says when the module
    /// refuses it.
    pub async fn reload_all(&mut self) -> CaseResult<Result<(), String>> {
        self.control_or_refusal("reload --all").await
    }

    /// What the control tool remembers of a series and of its image, which lies in the initramfs here:
    /// to be put back after a reboot with [`Self::put_record`].
    pub async fn record(&mut self, minor: u32, image: &str) -> CaseResult<SeriesRecord> {
        let uuid = self.active_snapshot(minor).await?.uuid;
        let mut files = Vec::new();
        for path in [format!("{RECORDS}/{uuid}.json"), format!("{image}.cowbird")] {
            let request = Request::ReadText { path: path.clone() };
            match self.call(request, self.limits.request).await {
                Ok(Reply::Text(text)) => files.push((path, text)),
                Ok(reply) => return Err(unexpected(&reply)),
                // There is no image yet.
                Err(CallError::Guest { error }) if error.errno == Some(ENOENT) => {}
                Err(CallError::Guest { error }) => return Err(CaseError::Failed(error.message)),
                Err(CallError::Ended(end)) => return Err(end.into()),
            }
        }
        Ok(SeriesRecord { files })
    }

    /// The same as it is by now.
    pub async fn record_again(&mut self, record: &SeriesRecord) -> CaseResult<SeriesRecord> {
        let mut files = Vec::new();
        for (path, _) in &record.files {
            let request = Request::ReadText { path: path.clone() };
            match self.prepare(request).await? {
                Reply::Text(text) => files.push((path.clone(), text)),
                reply => return Err(unexpected(&reply)),
            }
        }
        Ok(SeriesRecord { files })
    }

    /// Puts it back.
    pub async fn put_record(&mut self, record: &SeriesRecord) -> CaseResult<()> {
        for (path, text) in record.files.clone() {
            self.prepare(Request::WriteText { path, text }).await?;
        }
        Ok(())
    }

    /// Takes the record of the series away again.
    pub async fn remove_record(&mut self, record: &SeriesRecord) -> CaseResult<()> {
        for (path, _) in record.of_series() {
            let path = path.clone();
            self.prepare(Request::RemoveFile { path }).await?;
        }
        Ok(())
    }

    /// Puts back what belongs to the image alone, where the volume itself remembers the series.
    pub async fn put_label(&mut self, record: &SeriesRecord) -> CaseResult<()> {
        let files = record.files.iter().filter(|(path, _)| !is_record(path));
        let files = files.cloned().collect();
        self.put_record(&SeriesRecord { files }).await
    }

    /// What identifies the instant of a snapshot.
    async fn marker_of(&mut self, minor: u32) -> CaseResult<MarkerKey> {
        let key_of = |device: &DeviceInfo| {
            MarkerKey::from_hex(&device.uuid, Epoch(device.seq_id))
                .ok_or_else(|| CaseError::Failed(format!("{:?} is not a UUID", device.uuid)))
        };
        // A snapshot that has failed since had its instant too.
        let info = self.info().await?;
        if let Some(device) = info.devices.iter().find(|device| device.minor == minor) {
            self.note_instant(minor, &key_of(device)?);
        }
        key_of(&self.active_snapshot(minor).await?)
    }

    /// Ends a snapshot with the control tool.
    pub async fn destroy_snapshot(&mut self, minor: u32) -> CaseResult<()> {
        self.control(&format!("destroy {minor}")).await?;
        match self
            .info()
            .await?
            .devices
            .iter()
            .find(|device| device.minor == minor)
        {
            None => Ok(()),
            Some(_) => Err(CaseError::Failed(format!(
                "snapshot {minor} outlives its destroy"
            ))),
        }
    }

    /// Has the control tool do something that only a faulty module refuses.
    pub async fn control(&mut self, arguments: &str) -> CaseResult<()> {
        let refusal = |said| CaseError::Failed(format!("cowbirdctl {arguments}: {said}"));
        self.control_or_refusal(arguments).await?.map_err(refusal)
    }

    /// Runs the control tool; its last words when it refuses.
    async fn control_or_refusal(&mut self, arguments: &str) -> CaseResult<Result<(), String>> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let exited = self.run_to_any_end(COWBIRDCTL, &arguments).await?;
        if exited.code == Some(0) {
            return Ok(Ok(()));
        }
        let said = exited.stderr.trim().replace('\n', " / ");
        Ok(Err(said.trim_start_matches("cowbirdctl: ").to_owned()))
    }

    /// What the module says about itself.
    pub async fn info(&mut self) -> CaseResult<ModuleInfo> {
        let reply = self.expect(Request::ReadInfo, self.limits.request).await?;
        let Reply::Text(text) = reply else {
            return Err(unexpected(&reply));
        };
        let parsed: ModuleInfo = serde_json::from_str(&text)
            .map_err(|error| CaseError::Failed(format!("/proc/cowbird-info: {error}: {text}")))?;
        parsed.check_mutant(self.machine.plan().mutant.as_deref())?;
        // For the bundle: what it said last while there was a snapshot.
        if self.info.is_none() || !parsed.devices.is_empty() {
            self.info = Some(text);
        }
        Ok(parsed)
    }

    /// The snapshot with this number, which must be well.
    pub async fn active_snapshot(&mut self, minor: u32) -> CaseResult<DeviceInfo> {
        let info = self.info().await?;
        let device = info
            .devices
            .into_iter()
            .find(|device| device.minor == minor);
        let device =
            device.ok_or_else(|| CaseError::Failed(format!("there is no snapshot {minor}")))?;
        if device.error != 0 {
            let text = format!(
                "snapshot {minor} failed: {} ({})",
                device.error_text, device.error
            );
            return Err(CaseError::Failed(text));
        }
        Ok(device)
    }

    /// The blocks of the origin that hold the COW file, as the guest's filesystem knows them, and
    /// checked against the size of the file and what the module says.
    pub async fn own_blocks(&mut self, spec: SnapshotSpec) -> CaseResult<BlockSet> {
        self.own_blocks_at(spec, 0).await
    }

    /// As [`Self::own_blocks`], where the filesystem begins so many bytes after the origin.
    pub async fn own_blocks_at(&mut self, spec: SnapshotSpec, offset: u64) -> CaseResult<BlockSet> {
        let mut blocks = BlockSet::new();
        for extent in self.extents(spec.cow_file).await? {
            blocks.insert(
                BlockIndex((offset + extent.physical) / BLOCK_BYTES),
                extent.length / BLOCK_BYTES,
            );
        }
        let request = Request::SizeOf {
            path: spec.cow_file.into(),
        };
        let reply = self.expect(request, self.limits.request).await?;
        let Reply::Bytes(size) = reply else {
            return Err(unexpected(&reply));
        };
        let claimed = self.active_snapshot(spec.minor).await?.cow_own_blocks;
        let (by_size, mapped) = (size.div_ceil(BLOCK_BYTES), blocks.len());
        if by_size != mapped || claimed != mapped {
            return Err(CaseError::Failed(format!(
                "the COW file has {by_size} blocks by its size, {mapped} by its extents and \
                 {claimed} by the module"
            )));
        }
        Ok(blocks)
    }

    /// Where a file is on the device of its filesystem.
    pub async fn extents(&mut self, path: &str) -> CaseResult<Vec<Extent>> {
        let mut all: Vec<Extent> = Vec::new();
        for _ in 0..MAX_PAGES {
            let from_byte = all
                .last()
                .map_or(0, |extent| extent.logical + extent.length);
            let request = Request::Fiemap {
                path: path.into(),
                from_byte,
            };
            let reply = self.prepare(request).await?;
            let Reply::Extents { extents, complete } = reply else {
                return Err(unexpected(&reply));
            };
            all.extend(extents);
            if complete {
                return Ok(all);
            }
        }
        let detail = format!("{path} has more extents than {MAX_PAGES} pages hold");
        Err(HarnessError::Plan { detail }.into())
    }
}

/// What the control tool is told to take several snapshots at one instant.
fn setup_arguments(specs: &[SnapshotSpec]) -> String {
    let (cache_mib, cow_mib) = specs
        .first()
        .map_or((0, 0), |spec| (spec.cache_mib, spec.cow_mib));
    let mut arguments = format!("setup-snapshots -c {cache_mib} -f {cow_mib}");
    for spec in specs {
        arguments += &format!(" {} {} {}", spec.origin, spec.cow_file, spec.minor);
    }
    arguments
}

fn auto_expand_arguments(minor: u32, step_mib: u32, reserve_mib: u32) -> String {
    format!("reconfigure-auto-expand --step {step_mib} --reserve {reserve_mib} {minor}")
}

fn transition_arguments(minors: &[u32]) -> String {
    let minors: Vec<String> = minors.iter().map(ToString::to_string).collect();
    format!("transition-to-snapshot -c 4 {}", minors.join(" "))
}
