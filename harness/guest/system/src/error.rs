//! Errors of the guest are answers for the host: text with operation and object, and the errno.

use std::fmt::Display;
use std::io;

use cowbird_proto::message::GuestError;

/// Result of an operation in the guest.
pub type GuestResult<T> = Result<T, GuestError>;

/// An error without an errno.
pub fn failure(message: impl Into<String>) -> GuestError {
    GuestError {
        message: message.into(),
        errno: None,
    }
}

/// Adds operation and object to an error of the system.
pub trait Context<T> {
    /// `what` names operation and object: "mount /dev/vda1 on /mnt".
    fn context(self, what: impl Display) -> GuestResult<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl Display) -> GuestResult<T> {
        self.map_err(|error| GuestError {
            message: format!("{what}: {error}"),
            errno: error.raw_os_error(),
        })
    }
}

impl<T> Context<T> for Result<T, rustix::io::Errno> {
    fn context(self, what: impl Display) -> GuestResult<T> {
        self.map_err(io::Error::from).context(what)
    }
}
