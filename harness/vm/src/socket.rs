//! Sockets of QEMU.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::limits::{SOCKET_LIMIT, SOCKET_POLL};
use tokio::net::UnixStream;
use tokio::time::sleep;

/// What an error names that means that QEMU does not open its socket.
pub const CONNECT: &str = "connect to";

/// Connects to a socket that QEMU is about to open.
pub async fn connect(path: &Path) -> HarnessResult<UnixStream> {
    let deadline = Instant::now() + SOCKET_LIMIT;
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error)
                if Instant::now() < deadline
                    && matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) =>
            {
                sleep(SOCKET_POLL).await;
            }
            Err(error) => return Err(error).on(CONNECT, path),
        }
    }
}
