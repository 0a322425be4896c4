//! The boots of a machine: it stops, boots again, and is told what every guest is told.

use cowbird_checks::power::{self, Stop};
use cowbird_host::background::in_background;

use super::{CaseError, CaseResult, GuestSession, shut_down_error};
use crate::fault::Fault;

impl GuestSession<'_, '_> {
    /// Stops the machine and boots it again with the same disks. What the guest held in memory is gone: its
    /// workloads, mounts and modules.
    pub async fn reboot(&mut self, stop: Stop) -> CaseResult<()> {
        if self.machine.plan().tape.is_some() {
            let reason = "a tape is of one boot, and this case boots its machine again";
            return Err(CaseError::Unsupported(reason.to_owned()));
        }
        match stop {
            Stop::PowerOff => {}
            Stop::PowerOffNow { .. } => self.makes(Fault::HardPowerOff)?,
            Stop::PowerCut { .. } => self.makes(Fault::PowerCut)?,
        }
        match stop {
            Stop::PowerOff | Stop::PowerOffNow { .. } => self.stop_tracing().await?,
            Stop::PowerCut { .. } => self.lose_tracing(),
        }
        let log = self.kernel_log(self.limits.request).await;
        self.earlier
            .kernel_log
            .extend(log.map_err(shut_down_error)?);
        match stop {
            Stop::PowerOff => {
                self.full_pace().await?;
                self.vm.power_off().await.map_err(shut_down_error)?;
            }
            Stop::PowerOffNow { within } => {
                let off = self.vm.power_off_now(within).await;
                off.map_err(shut_down_error)?;
                self.paced.clear();
            }
            // QEMU ends at once, whatever the guest does; what the disk would have lost is decided
            // from its witness.
            Stop::PowerCut { .. } => {
                self.vm.stop().await;
                self.paced.clear();
            }
        }
        self.earlier.record.append(self.vm.take_record());
        let (files, boot) = (self.machine.files().clone(), self.earlier.count);
        let further = self.machine.further();
        in_background(move || power::end_boot(&files, further, boot, stop)).await?;
        self.earlier.count += 1;
        self.logged = None;
        // The kernel booted before and the module is not loaded yet; what stops it now is what the
        // module left on the disk.
        self.vm = self.machine.boot().await?;
        self.get_ready().await
    }

    /// What a guest is told after each boot, before its case acts.
    pub async fn get_ready(&mut self) -> CaseResult<()> {
        self.watch_for_hung_tasks().await?;
        self.keep_pages_stable().await
    }
}
