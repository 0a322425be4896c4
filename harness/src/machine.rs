//! The machine of a cell: what is booted, and may be booted again on the same disks.

use cowbird_proto::message::Hello;

use crate::cell::INITRAMFS_FILE;
use crate::error::{HarnessError, HarnessResult};
use crate::plan::CellPlan;
use crate::verify::CellFiles;
use crate::vm::command::{Disk, VmConfig};
use crate::vm::{End, Vm};

/// A machine that can be booted.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    plan: CellPlan,
    files: CellFiles,
    witnessed: bool,
}

impl Machine {
    pub(crate) fn new(plan: &CellPlan, files: CellFiles) -> Self {
        Self {
            plan: plan.clone(),
            files,
            witnessed: true,
        }
    }

    /// A machine without a witness, which costs time: for measurements.
    pub(crate) fn unwitnessed(plan: &CellPlan, files: CellFiles) -> Self {
        Self {
            witnessed: false,
            ..Self::new(plan, files)
        }
    }

    pub(crate) fn plan(&self) -> &CellPlan {
        &self.plan
    }

    pub(crate) fn files(&self) -> &CellFiles {
        &self.files
    }

    /// Boots it.
    pub(crate) async fn boot(&self) -> Result<Vm, End> {
        let mut config = vm_config(&self.plan, &self.files);
        if !self.witnessed {
            config.disks.iter_mut().for_each(|disk| disk.witness = None);
        }
        let (mut vm, hello) = Vm::boot(config, self.plan.limits.clone()).await?;
        if let Err(error) = check_guest(&self.plan, &hello) {
            vm.stop().await;
            return Err(error.into());
        }
        Ok(vm)
    }
}

/// The guest must be the one that was planned: a race needs its two CPUs.
fn check_guest(plan: &CellPlan, hello: &Hello) -> HarnessResult<()> {
    if hello.kernel_release != plan.kernel_release || hello.cpus != plan.cpus {
        let detail = format!(
            "the plan says kernel {} on {} CPUs, the guest runs {} on {}",
            plan.kernel_release, plan.cpus, hello.kernel_release, hello.cpus
        );
        return Err(HarnessError::Plan { detail });
    }
    Ok(())
}

fn vm_config(plan: &CellPlan, files: &CellFiles) -> VmConfig {
    VmConfig {
        kernel: plan.vmlinuz.clone(),
        initramfs: plan.work_dir.join(INITRAMFS_FILE),
        kernel_parameters: String::new(),
        disks: vec![
            Disk {
                image: files.origin(),
                witness: Some(files.witness()),
            },
            Disk {
                image: files.image(),
                witness: None,
            },
        ],
        cpus: plan.cpus,
        memory_mib: plan.memory_mib,
        accel: plan.accel,
        work_dir: plan.work_dir.clone(),
    }
}
