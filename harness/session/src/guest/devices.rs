//! Block devices, in the words of a case: stacked, mounted, resized and copied.

use cowbird_host::disk::Partition;
use cowbird_proto::message::{MountApi, MountSpec, PartitionChange, Reply, Request, StackKind};

use super::{CaseError, CaseResult, GuestSession, unexpected};

/// Bytes of one read when the snapshot is copied.
const COPY_CHUNK_BYTES: u32 = 1 << 20;

impl GuestSession<'_, '_> {
    /// Mounts an ext4.
    pub async fn mount(&mut self, source: &str, target: &str, options: &str) -> CaseResult<()> {
        self.mount_as(source, target, "ext4", options).await
    }

    /// Mounts any filesystem, writable, in the old way.
    pub async fn mount_as(
        &mut self,
        source: &str,
        target: &str,
        fstype: &str,
        options: &str,
    ) -> CaseResult<()> {
        self.mount_by(MountSpec {
            source: source.into(),
            target: target.into(),
            fstype: fstype.into(),
            options: options.into(),
            read_only: false,
            api: MountApi::Mount,
        })
        .await
    }

    /// Mounts as it is told.
    pub async fn mount_by(&mut self, spec: MountSpec) -> CaseResult<()> {
        self.prepare(Request::Mount { spec }).await.map(|_| ())
    }

    /// Unmounts.
    pub async fn unmount(&mut self, target: &str) -> CaseResult<()> {
        self.expect(
            Request::Umount {
                target: target.into(),
            },
            self.limits.control,
        )
        .await
        .map(|_| ())
    }

    /// Writes everything back.
    pub async fn sync_all(&mut self) -> CaseResult<()> {
        self.expect(Request::SyncAll, self.limits.copy)
            .await
            .map(|_| ())
    }

    /// Lets cached pages of all witnessed disks stay as they are while they are written. Otherwise a
    /// page may change between its way to the disk and its way to the witness. What is mounted
    /// before or stacked before does not know of it.
    pub(super) async fn keep_pages_stable(&mut self) -> CaseResult<()> {
        for disk in self.machine.witnessed_disk_names() {
            let request = Request::WriteText {
                path: format!("/sys/block/{disk}/queue/stable_writes"),
                text: "1".into(),
            };
            self.prepare(request).await?;
        }
        Ok(())
    }

    /// Stacks a device on others; gives its path.
    pub async fn stack(&mut self, devices: &[&str], kind: StackKind) -> CaseResult<String> {
        let request = Request::Stack {
            devices: devices.iter().map(ToString::to_string).collect(),
            kind,
        };
        match self.prepare(request).await? {
            Reply::Text(path) => Ok(path),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Takes it off again.
    pub async fn unstack(&mut self, kind: StackKind) -> CaseResult<()> {
        let request = Request::Unstack { kind };
        self.expect(request, self.limits.control).await.map(|_| ())
    }

    /// Gives the partition with a number another size.
    pub async fn resize_partition(
        &mut self,
        disk: &str,
        number: u32,
        partition: Partition,
    ) -> CaseResult<()> {
        let change = PartitionChange::Resize {
            start_bytes: partition.offset_bytes(),
            bytes: partition.length_bytes(),
        };
        self.change_partition(disk, number, change).await
    }

    /// Changes the partition with a number in the kernel's memory; the disk stays as it is.
    pub async fn change_partition(
        &mut self,
        disk: &str,
        number: u32,
        change: PartitionChange,
    ) -> CaseResult<()> {
        let disk = disk.into();
        let request = Request::ChangePartition {
            disk,
            number,
            change,
        };
        self.prepare(request).await.map(|_| ())
    }

    /// Copies a device, all of it.
    pub async fn copy_device(&mut self, from: &str, to: &str) -> CaseResult<u64> {
        self.copy_device_to(from, to, 0).await
    }

    /// The same, to so many bytes behind the start of another.
    pub async fn copy_device_to(&mut self, from: &str, to: &str, to_byte: u64) -> CaseResult<u64> {
        self.copy_between(from, None, to, to_byte, COPY_CHUNK_BYTES)
            .await
    }

    /// Copies the beginning of a device to the beginning of another.
    pub async fn copy_beginning(&mut self, from: &str, bytes: u64, to: &str) -> CaseResult<u64> {
        self.copy_between(from, Some(bytes), to, 0, COPY_CHUNK_BYTES)
            .await
    }

    /// Copies a device, all of it, by reads of so many bytes.
    pub async fn copy_in_reads_of(
        &mut self,
        from: &str,
        to: &str,
        chunk_bytes: u32,
    ) -> CaseResult<u64> {
        self.copy_between(from, None, to, 0, chunk_bytes).await
    }

    async fn copy_between(
        &mut self,
        from: &str,
        bytes: Option<u64>,
        to: &str,
        to_byte: u64,
        chunk_bytes: u32,
    ) -> CaseResult<u64> {
        let request = Request::CopyDevice {
            from: from.into(),
            bytes,
            to: to.into(),
            to_byte,
            chunk_bytes,
        };
        let reply = self.expect(request, self.limits.copy).await?;
        match reply {
            Reply::Bytes(bytes) => Ok(bytes),
            reply => Err(unexpected(&reply)),
        }
    }

    /// The size of the snapshot device must be that of the origin.
    pub async fn expect_size(&mut self, path: &str, origin: Partition) -> CaseResult<()> {
        let request = Request::SizeOf { path: path.into() };
        let reply = self.expect(request, self.limits.request).await?;
        match reply {
            Reply::Bytes(bytes) if bytes == origin.length_bytes() => Ok(()),
            reply => Err(CaseError::Failed(format!(
                "{path} has {reply:?}, its origin {} bytes",
                origin.length_bytes()
            ))),
        }
    }
}
