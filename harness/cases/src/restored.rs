//! The last step of a backup, in the guest: the image is copied back over the origin, and whoever used the
//! volume looks at what is there. What they find wrong is evidence, not an end: the oracle is to be heard, too.

use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{GoldenFile, GuestError, MountApi, MountSpec, Reply, Request};
use cowbird_session::guest::{CaseResult, GuestSession};
use sha2::{Digest, Sha256};

use crate::context::CaseContext;

/// Files that a fault names.
const NAMED_FILES: usize = 5;

/// Copies the image to the origin, which nothing may use.
pub(super) async fn restore(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<()> {
    guest.phase("restore");
    let bytes = context.layout.origin.length_bytes();
    guest
        .copy_beginning(context.image(), bytes, context.origin())
        .await?;
    Ok(())
}

/// Mounts the restored origin; the fault if that cannot be done.
pub async fn mount(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    target: &str,
    kind: Filesystem,
) -> CaseResult<Result<(), String>> {
    let spec = MountSpec {
        source: context.origin().into(),
        target: target.into(),
        fstype: kind.name().into(),
        options: String::new(),
        read_only: false,
        api: MountApi::Mount,
    };
    let mounted = guest.try_request(Request::Mount { spec }).await?;
    let fault = |error: GuestError| format!("it cannot be mounted: {error}");
    Ok(mounted.map(drop).map_err(fault))
}

/// Reads the golden files of a mounted filesystem; the fault if one is not as it was written.
pub(super) async fn read_golden_files(
    guest: &mut GuestSession<'_, '_>,
    mounted_at: &str,
    golden: &[GoldenFile],
) -> CaseResult<Result<(), String>> {
    let mut wrong = Vec::new();
    for file in golden {
        let path = format!("{mounted_at}/{}", file.path);
        let digest: Option<[u8; 32]> = match guest.try_request(Request::ReadFile { path }).await? {
            Ok(Reply::Content(bytes)) => Some(Sha256::digest(&bytes).into()),
            _ => None,
        };
        if digest != Some(file.sha256) {
            wrong.push(file.path.as_str());
        }
    }
    if wrong.is_empty() {
        return Ok(Ok(()));
    }
    let named = &wrong[..wrong.len().min(NAMED_FILES)];
    Ok(Err(format!(
        "{} of {} files that were synced before the snapshot differ: {}",
        wrong.len(),
        golden.len(),
        named.join(", ")
    )))
}
