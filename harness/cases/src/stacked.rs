//! Origins that are stacked on a partition, or on two. What reaches the disk below is what the
//! witness sees, so the truth is found at the partition's place; the writers and the snapshot know
//! only the device on top.

use cowbird_checks::claim::Evidence;
use cowbird_host::nature::OriginKind;
use cowbird_proto::message::StackKind;
use cowbird_session::guest::{CaseError, CaseResult, DeviceInfo, FAILED, FAULTY, GuestSession};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::modules;
use crate::names::ORIGIN;
use crate::raw_writers;
use crate::subject::{CasesOf, Subject};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Stacked.cases(&[
    case(
        "dm-linear",
        "a device-mapper device, which works on bios and has no queue to freeze",
        CaseTier::Daily,
        &modules(["dm_mod"]),
        raw_writers::layout,
        |guest, context| Box::pin(act(guest, context, StackKind::Linear)),
    ),
    case(
        "dm-two-pieces",
        "a logical volume of two pieces that meet inside a block",
        CaseTier::Daily,
        &modules(["dm_mod"]),
        raw_writers::layout,
        |guest, context| Box::pin(act(guest, context, StackKind::TwoPieces)),
    ),
    case(
        "dm-crypt",
        "an encrypted device; the truth is what the witness saw, decrypted",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_crypt", "xts"]),
        layout_crypt,
        |guest, context| Box::pin(act(guest, context, StackKind::Crypt)),
    ),
    case(
        "dm-thin",
        "a thin volume",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_thin_pool"]),
        layout_thin,
        |guest, context| Box::pin(act(guest, context, StackKind::Thin)),
    ),
    case(
        "md-raid1",
        "a RAID 1 of two disks, both with a witness",
        CaseTier::Daily,
        &modules(["md_mod", "raid1"]),
        layout_mirror,
        |guest, context| Box::pin(act(guest, context, StackKind::Mirror)),
    ),
    case(
        "loop",
        "a loop device with direct I/O on a partition",
        CaseTier::Daily,
        &modules(["loop"]),
        raw_writers::layout,
        |guest, context| Box::pin(act(guest, context, StackKind::Loop)),
    ),
]);

/// Sectors of a thin volume: a whole number of the pool's blocks.
const THIN_SECTORS: u32 = 48 * MIB_SECTORS;

/// Sectors of a mirror, which counts in KiB; no whole number of blocks.
const MIRROR_SECTORS: u32 = 48 * MIB_SECTORS + 6;

/// As for raw writers: the COW file holds all of the origin.
const COW_HOME_MIB: u32 = 96;

/// The other disk of a mirror, and its first partition.
const OTHER_HALF: &str = "/dev/vdc1";

/// The device of [`StackKind::Loop`] and [`StackKind::Scanned`].
pub const LOOP: &str = "/dev/loop0";

/// How the module refuses an origin of which it cannot know when it is quiet.
pub(super) const UNCOUNTED: &str = "does not count its I/O in flight";

/// Metadata of a thin pool.
const METADATA: &str = "/dev/vda3";

/// The disks of `dm-crypt`.
fn layout_crypt() -> Layout {
    Layout {
        kind: OriginKind::Encrypted,
        discards: false,
        ..raw_writers::layout()
    }
}

/// The disks of `dm-thin`.
fn layout_thin() -> Layout {
    Layout {
        discards: false,
        ..Layout::raw(THIN_SECTORS, COW_HOME_MIB).with_metadata()
    }
}

/// The disks of `md-raid1`.
fn layout_mirror() -> Layout {
    Layout {
        kind: OriginKind::Mirror,
        ..Layout::raw(MIRROR_SECTORS, COW_HOME_MIB)
    }
}

/// Plays `dm-linear`, `dm-two-pieces` and others.
async fn act(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    kind: StackKind,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let (below, expected): (&[&str], _) = match kind {
        StackKind::Loop | StackKind::Scanned => (&[ORIGIN], LOOP),
        StackKind::Linear
        | StackKind::Quarters
        | StackKind::TwoPieces
        | StackKind::Crypt
        | StackKind::CryptInline
        | StackKind::Many(_) => (&[ORIGIN], "/dev/dm-0"),
        StackKind::Striped => (&[ORIGIN, METADATA], "/dev/dm-0"),
        StackKind::Parity => (&[ORIGIN, METADATA, OTHER_HALF], "/dev/md0"),
        StackKind::Thin => (&[ORIGIN, METADATA], "/dev/dm-1"),
        StackKind::Mirror => (&[ORIGIN, OTHER_HALF], "/dev/md0"),
        StackKind::FaultInjection => (&[ORIGIN], FAULTY),
        StackKind::Spread { .. } | StackKind::Gathered { .. } => (&[ORIGIN], "/dev/dm-0"),
    };
    let path = guest.stack(below, kind).await?;
    if path != expected {
        return Err(CaseError::Failed(format!("{path} instead of {expected}")));
    }
    let spec = raw_writers::spec(expected);
    let written = raw_writers::write_across_the_instant(guest, context, expected, spec, None).await;
    let evidence = match written {
        // Before 5.14, md counts nothing.
        Err(CaseError::Failed(reason))
            if kind == StackKind::Mirror && reason.contains(UNCOUNTED) =>
        {
            return Err(CaseError::Unsupported(reason));
        }
        // From 5.19 on a write that waits to be encrypted is not counted in flight.
        Err(CaseError::Failed(reason)) if kind == StackKind::Crypt => {
            return failed_by_straggler(guest, reason).await;
        }
        written => written?,
    };
    guest.unstack(kind).await?;
    raw_writers::tear_down(guest).await?;
    Ok(evidence)
}

/// Why it must have failed, if it has.
const STRAGGLER: &str = "a write that started before the snapshot";

/// Why it must have been refused, if it was.
const TOO_LATE: &str = "that started before the snapshot completed at the snapshot instant";

/// A write that was not seen in flight ends the snapshot, visibly. The writers still have the device;
/// it goes with the guest.
async fn failed_by_straggler(
    guest: &mut GuestSession<'_, '_>,
    reason: String,
) -> CaseResult<Evidence> {
    let devices = guest.info().await?.devices;
    let straggled = |device: &&DeviceInfo| device.error_text.contains(STRAGGLER);
    let Some(device) = devices.iter().find(straggled) else {
        if reason.contains(TOO_LATE) {
            guest.note(format!("refused as it must be: {reason}"));
            return Ok(Evidence::failed_snapshot(&[FAILED]));
        }
        return Err(CaseError::Failed(reason));
    };
    guest.note(format!("failed as it must: {}", device.error_text));
    Ok(Evidence::failed_snapshot(&[FAILED]))
}
