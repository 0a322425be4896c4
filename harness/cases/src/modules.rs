//! Modules of the kernel that cases need.

/// Modules that every guest needs, whether built in or not. What they depend on softly (ext4 on
/// crc32c, under a name that changes between kernels) the store adds.
pub const GUEST_MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_blk", "ext4"];

/// [`GUEST_MODULES`] and at most four more; a name may be there twice.
pub const fn modules<const N: usize>(more: [&'static str; N]) -> [&'static str; 8] {
    let [pci, console, blk, ext4] = GUEST_MODULES;
    let mut all = [pci, console, blk, ext4, ext4, ext4, ext4, ext4];
    let mut index = 0;
    while index < N {
        all[GUEST_MODULES.len() + index] = more[index];
        index += 1;
    }
    all
}
