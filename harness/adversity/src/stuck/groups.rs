//! A control group whose I/O is limited, by its cost or by its number.

use cowbird_proto::message::{MountApi, MountSpec, Reply, Request};
use cowbird_session::guest::{CaseError, CaseResult, GuestSession};

/// The disk that the limits are for.
const DISK: &str = "vda";

/// Where the groups are, and what all their members may do together is set.
pub(super) const GROUPS: &str = "/sys/fs/cgroup";

/// The slow group, and one that is not.
pub(super) const SLOW: &str = "/sys/fs/cgroup/slow";
pub(super) const NORMAL: &str = "/sys/fs/cgroup/normal";

/// What a file of a group is given: folder, file, text. `DISK` in it stands for the disk's number.
pub(super) type Limit<'a> = (&'a str, &'a str, String);

/// Makes the groups; why this kernel does not know a limit, if it does not.
pub async fn make(
    guest: &mut GuestSession<'_, '_>,
    limits: &[Limit<'_>],
) -> CaseResult<Result<(), String>> {
    guest
        .mount_by(MountSpec {
            source: "cgroup2".to_owned(),
            target: GROUPS.to_owned(),
            fstype: "cgroup2".to_owned(),
            options: String::new(),
            read_only: false,
            api: MountApi::Mount,
        })
        .await?;
    let control = (GROUPS, "cgroup.subtree_control", "+io".to_owned());
    if let Err(reason) = set(guest, &control).await? {
        return Ok(Err(reason));
    }
    for limit in limits {
        if let Err(reason) = set(guest, limit).await? {
            return Ok(Err(reason));
        }
    }
    Ok(Ok(()))
}

/// Gives a file of a group something else.
pub async fn set(
    guest: &mut GuestSession<'_, '_>,
    (folder, file, text): &Limit<'_>,
) -> CaseResult<Result<(), String>> {
    let request = Request::WriteText {
        path: format!("{folder}/{file}"),
        text: text.replace("DISK", &disk_number(guest).await?),
    };
    let set = guest.try_request(request).await?;
    Ok(set.map(|_| ()).map_err(|error| error.message))
}

async fn disk_number(guest: &mut GuestSession<'_, '_>) -> CaseResult<String> {
    let path = format!("/sys/block/{DISK}/dev");
    match guest.prepare(Request::ReadText { path }).await? {
        Reply::Text(number) => Ok(number.trim().to_owned()),
        reply => Err(CaseError::Failed(format!(
            "{DISK} has no number: {reply:?}"
        ))),
    }
}

/// A disk of which iocost believes that it does so many operations in a second, of a block each.
pub fn model(operations: u64) -> Limit<'static> {
    let bytes = operations * 4096;
    let text = format!(
        "DISK ctrl=user model=linear rbps={bytes} rseqiops={operations} rrandiops={operations} \
         wbps={bytes} wseqiops={operations} wrandiops={operations}"
    );
    (GROUPS, "io.cost.model", text)
}

/// Iocost at work, at the pace of its model.
pub(super) fn cost() -> Limit<'static> {
    let text = "DISK enable=1 ctrl=user min=100.00 max=100.00";
    (GROUPS, "io.cost.qos", text.to_owned())
}

/// The share of a group.
pub(super) fn weight(group: &str, weight: u32) -> Limit<'_> {
    (group, "io.weight", weight.to_string())
}

/// So many operations in a second, `max` for no limit.
pub(super) fn maximum<'a>(group: &'a str, operations: &str) -> Limit<'a> {
    let text = format!("DISK riops={operations} wiops={operations}");
    (group, "io.max", text)
}
