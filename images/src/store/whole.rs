//! Whether entries of the cache have all that they must have.

use std::path::Path;

use crate::build_root::{self, RootRecord};
use crate::entry_record;
use crate::kernel::{self, KernelRecord};

pub(crate) fn is_whole_kernel(entry: &Path) -> bool {
    entry_record::read::<KernelRecord>(entry)
        .is_ok_and(|record| kernel::tree(entry).join(record.vmlinuz).is_file())
}

pub(crate) fn is_whole_root(entry: &Path) -> bool {
    entry_record::read::<RootRecord>(entry).is_ok()
        && build_root::tree(entry).join("usr/bin").is_dir()
}
