//! What the disks are called in the guest of most cases.

use cowbird_session::guest::SnapshotSpec;

/// The origin in the guest.
pub const ORIGIN: &str = "/dev/vda1";

/// The second partition of the first disk: where the COW file is, when it is not on the origin.
pub const COW_HOME: &str = "/dev/vda2";

/// Where [`COW_HOME`] is mounted.
pub const COW_MOUNT: &str = "/mnt/cow";

/// The snapshot device.
pub const SNAPSHOT: &str = "/dev/cowbird0";

/// Number of [`SNAPSHOT`].
pub const MINOR: u32 = 0;

/// The second disk: the image.
pub const IMAGE: &str = "/dev/vdb";

/// A snapshot whose COW file is where [`COW_HOME`] is mounted, with 8 MiB of memory for preserved blocks; `cow_mib` is the
/// size of the COW file, MiB.
#[must_use]
pub const fn snapshot_of(origin: &'static str, cow_mib: u32) -> SnapshotSpec {
    SnapshotSpec {
        origin,
        cow_file: "/mnt/cow/snapshot.cow",
        cow_mib,
        cache_mib: 8,
        minor: MINOR,
    }
}
