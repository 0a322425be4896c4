//! A filesystem that is mounted in another mount namespace only, from where files are written and closed just
//! before its snapshot: it is frozen by its device. The tool is asked once more while it is frozen by others.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseInfo, CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SnapshotSpec};
use cowbird_vm::layout::Layout;

use crate::freezing;
use crate::stale_cache;
use crate::stale_cache::shell;

/// The cases of this file.
pub static CASES: CasesOf = Subject::Surroundings.cases(&[
    case(
        "frozen-home",
        "a filesystem that others have frozen and that is to hold the COW file",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act_frozen_home(guest, context)),
    )
    .making(&[Fault::Frozen]),
    CaseInfo {
        programs: stale_cache::PROGRAMS,
        ..case(
            "other-namespace",
            "a filesystem that is mounted in another mount namespace only",
            CaseTier::Daily,
            &GUEST_MODULES,
            layout,
            |guest, context| Box::pin(act(guest, context)),
        )
    },
]);

const SPEC: SnapshotSpec = snapshot_of(ORIGIN, 40);

/// Mounts the origin where nobody else sees it, writes files, and waits until it is told to go.
const WRITER: &str = r"PATH=/usr/bin:/usr/sbin; export PATH; mkdir -p /mnt/hidden /tmp/hidden
unshare --mount --propagation private dash -c '
mount -t ext4 /dev/vda1 /mnt/hidden && mkdir /mnt/hidden/closed &&
for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/tmp/hidden/$n bs=64k count=5 && cp /tmp/hidden/$n /mnt/hidden/closed/$n || exit; done
>/tmp/hidden/written
while [ ! -e /tmp/hidden/go ]; do sleep 0.1; done
umount /mnt/hidden; >/tmp/hidden/gone' </dev/null >/dev/null 2>&1 &
for tick in $(cat /tmp/ticks); do [ -e /tmp/hidden/written ] && exit 0; sleep 0.1; done; exit 1";

/// The snapshot needs no recovery, and has the files.
const LOOK: &str = r"PATH=/usr/bin:/usr/sbin; export PATH; mkdir -p /mnt/snapshot
dumpe2fs -h /dev/cowbird0 2>/dev/null >/tmp/hidden/head
grep -q needs_recovery /tmp/hidden/head && { echo needs recovery; exit 0; }
mount -t ext4 -o ro,noload /dev/cowbird0 /mnt/snapshot || { echo cannot be mounted; exit 0; }
for n in 1 2 3 4 5 6 7 8; do cmp -s /tmp/hidden/$n /mnt/snapshot/closed/$n || { echo file $n is missing or wrong; break; }; done
umount /mnt/snapshot";

const GO: &str = r"PATH=/usr/bin:/usr/sbin; export PATH; >/tmp/hidden/go
for tick in $(cat /tmp/ticks); do [ -e /tmp/hidden/gone ] && exit 0; sleep 0.1; done; exit 1";

/// As many words as tenths of a second are waited.
const TICKS: usize = 600;

/// The disks of `frozen-home` and `other-namespace`.
fn layout() -> Layout {
    freezing::layout()
}

/// Plays `other-namespace`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let (path, text) = ("/tmp/ticks".into(), "t ".repeat(TICKS));
    let ticks = cowbird_proto::message::Request::WriteText { path, text };
    guest.prepare(ticks).await?;
    shell(guest, WRITER).await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(SPEC).await?;
    let fault = shell(guest, LOOK).await?;
    if !fault.trim().is_empty() {
        return Err(CaseError::Failed(format!(
            "the snapshot of a filesystem in another mount namespace: {}",
            fault.trim()
        )));
    }
    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    shell(guest, GO).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).with(OfImage::SoundExt4),
    ))
}

/// The filesystem that is frozen has the COW file as well: whoever made that would wait for the thaw.
async fn act_frozen_home(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    use cowbird_proto::message::Request;

    const MOUNT: &str = "/mnt/origin";
    const OWN: SnapshotSpec = SnapshotSpec {
        cow_file: "/mnt/origin/snapshot.cow",
        cow_mib: 24,
        ..SPEC
    };
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.insert_module().await?;
    let path = || MOUNT.to_owned();
    guest.prepare(Request::Freeze { path: path() }).await?;

    guest.phase("snapshot");
    guest.expect_refusal(OWN, "frozen").await?;
    guest.prepare(Request::Thaw { path: path() }).await?;
    // Nothing is left that would be in the way.
    let marker = guest.setup_snapshot(OWN).await?;
    let zeroed = guest.own_blocks(OWN).await?;
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.active_snapshot(MINOR).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .zeroed(zeroed)
            .with(OfImage::SoundExt4),
    ))
}
