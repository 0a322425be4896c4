//! Whether entries of the cache have all that they must have.

use std::path::Path;

use crate::kernel::{self, KernelRecord};
use crate::record;
use crate::root::{self, RootRecord};

pub(crate) fn is_whole_kernel(entry: &Path) -> bool {
    record::read::<KernelRecord>(entry)
        .is_ok_and(|record| kernel::tree(entry).join(record.vmlinuz).is_file())
}

pub(crate) fn is_whole_root(entry: &Path) -> bool {
    record::read::<RootRecord>(entry).is_ok() && root::tree(entry).join("usr/bin").is_dir()
}
