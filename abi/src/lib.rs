//! Rust bindings of the module's user-space ABI.
//!
//! Everything in [`mod@bindings`] is generated from `kmod/include/uapi/cowbird.h`,
//! where the structures, their units and their rules are described. This file
//! adds what a C header expresses in macros that Rust cannot read: the ioctl
//! numbers and the strings.

#[allow(
    missing_docs,
    non_camel_case_types,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code; documented in the header that it comes from"
)]
#[rustfmt::skip]
mod bindings;

use core::ffi::{CStr, c_char};

pub use bindings::*;

/// `_IOC_READ | _IOC_WRITE` of `asm-generic/ioctl.h`.
const IOC_READ_WRITE: u32 = 3;

/// `_IOWR(COWBIRD_IOC_MAGIC, number, T)` of `asm-generic/ioctl.h`.
const fn iowr<T>(number: u32) -> u32 {
    (IOC_READ_WRITE << 30) | ((size_of::<T>() as u32) << 16) | (COWBIRD_IOC_MAGIC << 8) | number
}

/// `COWBIRD_IOC_PIN`.
pub const IOC_PIN: u32 = iowr::<cowbird_ioc_pin>(COWBIRD_IOC_PIN_NR);
/// `COWBIRD_IOC_SETUP`.
pub const IOC_SETUP: u32 = iowr::<cowbird_ioc_setup>(COWBIRD_IOC_SETUP_NR);
/// `COWBIRD_IOC_DESTROY`.
pub const IOC_DESTROY: u32 = iowr::<cowbird_ioc_destroy>(COWBIRD_IOC_DESTROY_NR);

/// `COWBIRD_IOC_TRACK`.
pub const IOC_TRACK: u32 = iowr::<cowbird_ioc_track>(COWBIRD_IOC_TRACK_NR);
/// `COWBIRD_IOC_CHANGES`.
pub const IOC_CHANGES: u32 = iowr::<cowbird_ioc_changes>(COWBIRD_IOC_CHANGES_NR);
/// `COWBIRD_IOC_RELOAD`.
pub const IOC_RELOAD: u32 = iowr::<cowbird_ioc_reload>(COWBIRD_IOC_RELOAD_NR);
/// `COWBIRD_IOC_VERIFY`.
pub const IOC_VERIFY: u32 = iowr::<cowbird_ioc_verify>(COWBIRD_IOC_VERIFY_NR);
/// `COWBIRD_IOC_SUSPEND`.
pub const IOC_SUSPEND: u32 = iowr::<cowbird_ioc_suspend>(COWBIRD_IOC_SUSPEND_NR);

/// `COWBIRD_IOC_SETUP_SET`.
pub const IOC_SETUP_SET: u32 = iowr::<cowbird_ioc_setup_set>(COWBIRD_IOC_SETUP_SET_NR);

/// `COWBIRD_IOC_RECONFIGURE`.
pub const IOC_RECONFIGURE: u32 = iowr::<cowbird_ioc_reconfigure>(COWBIRD_IOC_RECONFIGURE_NR);

/// `COWBIRD_IOC_EXPAND`.
pub const IOC_EXPAND: u32 = iowr::<cowbird_ioc_expand>(COWBIRD_IOC_EXPAND_NR);
/// `COWBIRD_IOC_CHECK_FROZEN`.
pub const IOC_CHECK_FROZEN: u32 = iowr::<cowbird_ioc_check_frozen>(COWBIRD_IOC_CHECK_FROZEN_NR);

/// Text of a C string constant of the header.
const fn text(bytes: &'static [u8]) -> &'static str {
    match CStr::from_bytes_with_nul(bytes) {
        Ok(text) => match text.to_str() {
            Ok(text) => text,
            Err(_) => panic!("a string of the header is not UTF-8"),
        },
        Err(_) => panic!("a string of the header has no end"),
    }
}

/// Release of the interface that these bindings belong to.
pub const VERSION: &str = text(COWBIRD_VERSION);
/// Name of the control device below `/dev`.
pub const CONTROL_NAME: &str = text(COWBIRD_CONTROL_NAME);
/// What the snapshot devices' names below `/dev` start with.
pub const DISK_PREFIX: &str = text(COWBIRD_DISK_PREFIX);
/// Name of the status file below `/proc`.
pub const PROC_NAME: &str = text(COWBIRD_PROC_NAME);

/// The reason that the module wrote into a request, without its padding.
#[must_use]
pub fn reason(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field
        .iter()
        .map(|&c| c.cast_unsigned())
        .take_while(|&c| c != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Copies a path into a request's field, cut to leave a terminating zero.
pub fn put_path(field: &mut [c_char], path: &[u8]) {
    let room = field.len().saturating_sub(1);
    for (to, &from) in field[..room].iter_mut().zip(path) {
        *to = from.cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the numbers are those that the C header gives. The expected values
    /// were printed by a C program that includes it.
    #[test]
    fn ioctl_numbers_match_the_header() {
        assert_eq!(IOC_PIN, 0xc0c8cb01);
        assert_eq!(IOC_SETUP, 0xc530cb02);
        assert_eq!(IOC_DESTROY, 0xc0c8cb03);
        assert_eq!(IOC_TRACK, 0xc0c8cb04);
        assert_eq!(IOC_CHANGES, 0xc108cb05);
        assert_eq!(IOC_RELOAD, 0xc518cb06);
        assert_eq!(IOC_VERIFY, 0xc0d0cb07);
        assert_eq!(IOC_SUSPEND, 0xc0c8cb08);
        assert_eq!(IOC_SETUP_SET, 0xc0d8cb09);
        assert_eq!(IOC_RECONFIGURE, 0xc0d0cb0a);
        assert_eq!(IOC_EXPAND, 0xc0d0cb0b);
        assert_eq!(IOC_CHECK_FROZEN, 0xc0e0cb0c);
    }

    #[test]
    fn paths_and_reasons_end_where_they_must() {
        let mut field = [0; 8];
        put_path(&mut field, b"/dev/much-too-long");
        assert_eq!(reason(&field), "/dev/mu");
        assert_eq!(reason(&[]), "");
    }
}
