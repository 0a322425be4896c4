//! Boots kernels in QEMU, runs cases and judges them.
