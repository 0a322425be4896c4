//! The machine of a cell: what is booted, and may be booted again on the same disks.

use std::fs;

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::{CellFiles, INITRAMFS_FILE};
use cowbird_host::nature::FurtherDisk;
use cowbird_proto::message::Hello;
use cowbird_vm::command::VmConfig;
use cowbird_vm::disks::Bus;
use cowbird_vm::layout::Layout;
use cowbird_vm::{End, Vm};

use crate::plan::{CellPlan, TapePlan};

/// A machine that can be booted.
#[derive(Debug, Clone)]
pub struct Machine {
    plan: CellPlan,
    layout: Layout,
    files: CellFiles,
    witnessed: bool,
    terminal: bool,
    /// Length of the initramfs without what [`Self::extend_initramfs`] laid behind it, once that is known.
    initramfs_bytes: Option<usize>,
}

impl Machine {
    /// The machine of a plan, with the disks of a layout.
    pub fn new(plan: &CellPlan, layout: &Layout, files: CellFiles) -> Self {
        Self {
            plan: plan.clone(),
            layout: *layout,
            files,
            witnessed: true,
            terminal: false,
            initramfs_bytes: None,
        }
    }

    /// A machine without a witness, which costs time: for measurements. Its disks are made by
    /// whoever measures.
    pub fn unwitnessed(plan: &CellPlan, files: CellFiles) -> Self {
        Self {
            witnessed: false,
            ..Self::new(plan, &Layout::raw_without_cow(0), files)
        }
    }

    /// A machine to work in: with a terminal, and without a witness, which would grow as long as somebody works.
    pub fn with_terminal(plan: &CellPlan, layout: &Layout, files: CellFiles) -> Self {
        Self {
            witnessed: false,
            terminal: true,
            ..Self::new(plan, layout, files)
        }
    }

    /// What it was made from.
    pub fn plan(&self) -> &CellPlan {
        &self.plan
    }

    /// The files of its cell.
    pub fn files(&self) -> &CellFiles {
        &self.files
    }

    /// The disk beside the first one that has a witness of its own.
    pub(crate) fn further(&self) -> FurtherDisk {
        self.layout.further()
    }

    /// How a disk is attached.
    pub(crate) fn bus_of(&self, index: usize) -> HarnessResult<Bus> {
        let disks = self.layout.attach(&self.files);
        let disk = disks.get(index).ok_or_else(|| HarnessError::Plan {
            detail: format!("the machine has no disk {index}"),
        })?;
        Ok(disk.bus)
    }

    /// The disks in the guest that have a witness, as names without their folder.
    pub(crate) fn witnessed_disk_names(&self) -> Vec<String> {
        if self.witnessed {
            self.layout.witnessed_disk_names(&self.files)
        } else {
            Vec::new()
        }
    }

    /// Lays an archive behind the initramfs for the boots to come, in place of the one before. The file
    /// is made anew: QEMU may still have the old one mapped.
    pub(crate) fn extend_initramfs(&mut self, part: &[u8]) -> HarnessResult<()> {
        let path = self.plan.work_dir.join(INITRAMFS_FILE);
        let mut bytes = fs::read(&path).on("read", &path)?;
        bytes.truncate(*self.initramfs_bytes.get_or_insert(bytes.len()));
        bytes.extend_from_slice(part);
        let draft = path.with_extension("new");
        fs::write(&draft, bytes).on("write", &draft)?;
        fs::rename(&draft, &path).on("rename", &draft)
    }

    /// Boots it.
    pub async fn boot(&self) -> Result<Vm, End> {
        let mut config = self.config();
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

    /// What QEMU is started with.
    pub fn config(&self) -> VmConfig {
        let plan = &self.plan;
        let tape = plan.tape.as_ref();
        VmConfig {
            kernel: plan.vmlinuz.clone(),
            initramfs: plan.work_dir.join(INITRAMFS_FILE),
            kernel_parameters: [
                self.layout.kernel_parameters,
                &self.plan.limits.kernel_parameters(),
            ]
            .join(" "),
            disks: self.layout.attach(&self.files),
            cpus: plan.cpus,
            memory_mib: self.layout.memory_mib.unwrap_or(plan.memory_mib),
            accel: plan.accel,
            work_dir: plan.work_dir.clone(),
            emulator: tape.map(|tape| tape.emulator.clone()).unwrap_or_default(),
            tape: tape.map(TapePlan::mode),
            terminal: self.terminal,
        }
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
