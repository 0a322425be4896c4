//! What the harness needs of its host: files, disks and filesystems on them, initramfs and kernels to boot, programs,
//! limits. Nothing here knows of a machine, a case or a verdict.

pub mod background;
pub mod disk;
pub mod error;
pub mod files;
pub mod foreign;
pub mod initramfs;
pub mod kernel_image;
pub mod kernel_log;
pub mod limits;
pub mod nature;
pub mod program;
pub mod scratch;
pub mod tool;
