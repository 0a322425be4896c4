//! What goes wrong at the command line: names of any bytes, images onto what is in use, records that are none, filesystems that
//! cannot do what is asked, output that nobody reads. Nothing may be harmed by it, and the tool says what is wrong.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseInfo, CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_host::program::HostProgram;
use cowbird_proto::message::{Request, StackKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SHELL, SnapshotSpec, coreutil};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Limits.cases(&[
    CaseInfo {
        programs: PROGRAMS,
        ..case(
            "mishaps",
            "mistakes at the command line: odd names, images onto what is in use, records that are none, no fallocate",
            CaseTier::Daily,
            &modules(["loop", "md_mod", "raid456"]),
            layout,
            |guest, context| Box::pin(act(guest, context)),
        )
        .making(&[Fault::NoRoom])
    },
    CaseInfo {
        programs: XFS_PROGRAMS,
        ..case(
            "cow-elsewhere",
            "a COW file on the realtime device of an xfs is refused, and nothing is damaged",
            CaseTier::Daily,
            &modules(["xfs"]),
            layout_elsewhere,
            |guest, context| Box::pin(act_elsewhere(guest, context)),
        )
    },
]);

/// What the scripts use.
pub const PROGRAMS: &[HostProgram] = &[
    SHELL,
    coreutil("cat"),
    coreutil("dd"),
    coreutil("ln"),
    coreutil("mkdir"),
    coreutil("mkfifo"),
    coreutil("rm"),
    coreutil("stat"),
    coreutil("timeout"),
    HostProgram {
        program: "mke2fs",
        package: "e2fsprogs",
    },
    HostProgram {
        program: "mount",
        package: "mount",
    },
    HostProgram {
        program: "umount",
        package: "mount",
    },
];

/// As those, and the tools of xfs.
pub const XFS_PROGRAMS: &[HostProgram] = &[
    SHELL,
    coreutil("cat"),
    coreutil("dd"),
    coreutil("mkdir"),
    HostProgram {
        program: "mount",
        package: "mount",
    },
    HostProgram {
        program: "umount",
        package: "mount",
    },
    HostProgram {
        program: "mkfs.xfs",
        package: "xfsprogs",
    },
    HostProgram {
        program: "xfs_repair",
        package: "xfsprogs",
    },
];

/// The third partition, an ext4 at first.
const THIRD: &str = "/dev/vda3";
const THIRD_MOUNT: &str = "/mnt/third";

/// Room for the COW file of [`raw_writers`], written as zeros.
const THIRD_MIB: u32 = 96;

/// The file of the origin whose bytes are not UTF-8.
const ODD_FOLDER: &str = r#"ODD="$(printf '/mnt/cow/caf\351 "\\ \033')"; "#;

/// What the report shows of it.
const ODD_SHOWN: &str = r#"/mnt/cow/caf\351 "\134 \033/cow"#;

/// The disks of `mishaps`.
fn layout() -> Layout {
    raw_writers::layout().with_third(THIRD_MIB)
}

/// The realtime device of [`act_elsewhere`] is the disk for images: it is as large as three origins.
fn layout_elsewhere() -> Layout {
    Layout {
        images: 3,
        ..Layout::raw(ELSEWHERE_ORIGIN_MIB * MIB_SECTORS, 16).with_third(128)
    }
}

const ELSEWHERE_ORIGIN_MIB: u32 = 16;

/// What went wrong in the sections so far: each is tried, whatever became of those before.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    async fn take(
        &mut self,
        guest: &mut GuestSession<'_, '_>,
        section: CaseResult<()>,
    ) -> CaseResult<()> {
        let Err(CaseError::Failed(fault)) = section else {
            return section;
        };
        self.0.push(fault);
        guest
            .shell_to_any_end(&format!(
                "set +e; umount /mnt/snapshot; umount /mnt/origin; umount {THIRD_MOUNT}; cowbirdctl destroy {MINOR}; \
                 rm -rf {COW_MOUNT}/cow /etc/cowbird /images"
            ))
            .await
            .map(|_| ())
    }
}

/// Plays `mishaps`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let mut faults = Faults::default();
    let section = wrong_targets(guest).await;
    faults.take(guest, section).await?;
    let section = private_files(guest).await;
    faults.take(guest, section).await?;
    let section = lost_output(guest).await;
    faults.take(guest, section).await?;
    let section = bad_records(guest).await;
    faults.take(guest, section).await?;
    let section = parity(guest).await;
    faults.take(guest, section).await?;
    let section = mounted(guest).await;
    faults.take(guest, section).await?;
    let evidence = match without_fallocate(guest, context).await {
        Ok(evidence) => Some(evidence),
        Err(error) => {
            faults.take(guest, Err(error)).await?;
            None
        }
    };
    // Comes last: a module that fails here can do nothing more.
    let section = odd_names(guest).await;
    faults.take(guest, section).await?;
    match evidence {
        Some(evidence) if faults.0.is_empty() => {
            guest.phase("teardown");
            raw_writers::tear_down(guest).await?;
            Ok(evidence)
        }
        _ => Err(CaseError::Failed(faults.0.join("; "))),
    }
}

/// The snapshot that a section is about.
async fn set_up(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest
        .shell(&format!(
            "cowbirdctl setup-snapshot -c 4 -f 12 {ORIGIN} {COW_MOUNT}/cow {MINOR}"
        ))
        .await
        .map(|_| ())
}

async fn destroy(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest
        .shell(&format!("cowbirdctl destroy {MINOR}"))
        .await
        .map(|_| ())
}

/// A COW file below a folder with bytes that are not UTF-8: all verbs work. A name that the module would cut off is refused.
async fn odd_names(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("names");
    let long = "x".repeat(200);
    guest
        .expect_shell_refusal(
            &format!(
                "cd {COW_MOUNT}; mkdir -p {long}/{long}/{long}; \
                 cowbirdctl setup-snapshot -f 8 {ORIGIN} {COW_MOUNT}/{long}/{long}/{long}/cow {MINOR}"
            ),
            1,
            "choose a shorter path",
        )
        .await?;
    guest
        .shell(&format!(
            "[ ! -e {COW_MOUNT}/{long}/{long}/{long}/cow ]; rm -r {COW_MOUNT}/{long}"
        ))
        .await?;
    guest
        .shell(&format!(
            "{ODD_FOLDER} mkdir \"$ODD\"; cowbirdctl setup-snapshot -c 4 -f 12 {ORIGIN} \"$ODD/cow\" {MINOR}"
        ))
        .await?;
    // The harness reads it as strict JSON.
    guest.active_snapshot(MINOR).await?;
    let shown = guest.shell("cowbirdctl info").await?;
    if !shown.contains(ODD_SHOWN) {
        return Err(CaseError::Failed(format!(
            "the report does not show {ODD_SHOWN}: {shown}"
        )));
    }
    guest
        .shell(&format!(
            "cowbirdctl transition-to-incremental {MINOR}; cowbirdctl suspend {MINOR}; cowbirdctl reload --all; \
             cowbirdctl transition-to-snapshot -c 4 {MINOR}; \
             cowbirdctl expand-cow-file --size 1 {MINOR}; cowbirdctl expand-cow-file --size 1 {MINOR}; \
             case \"$(cowbirdctl info)\" in *', expanded 2 times)'*) ;; *) exit 8;; esac; \
             cowbirdctl reconfigure -c 5 {MINOR}; cowbirdctl destroy {MINOR}; {ODD_FOLDER} [ ! -e \"$ODD/cow\" ]"
        ))
        .await?;
    Ok(())
}

/// Images onto what is in use, or belongs to the snapshot.
async fn wrong_targets(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("targets");
    set_up(guest).await?;
    let copy = |target: &str| format!("cowbirdctl copy-image /dev/cowbird{MINOR} {target}");
    guest.mount(THIRD, THIRD_MOUNT, "").await?;
    guest
        .shell(&format!("echo kept > {THIRD_MOUNT}/file"))
        .await?;
    guest
        .expect_shell_refusal(&copy(THIRD), 1, "is in use")
        .await?;
    let forced = format!("{} --force", copy(THIRD));
    guest.expect_shell_refusal(&forced, 1, "is in use").await?;
    guest.unmount(THIRD_MOUNT).await?;
    guest
        .expect_shell_refusal(&copy(THIRD), 1, "holds an ext2, ext3 or ext4 filesystem")
        .await?;
    guest.stack(&[ORIGIN], StackKind::Loop).await?;
    for (target, named) in [
        (ORIGIN, "the origin of snapshot 0"),
        ("/dev/vda", "the origin of snapshot 0"),
        ("/dev/loop0", "the origin of snapshot 0"),
        (COW_HOME, "the COW file of snapshot 0"),
        ("/dev/cowbird0", "is a snapshot"),
    ] {
        for force in ["", " --force"] {
            let script = format!("{}{force}", copy(target));
            guest.expect_shell_refusal(&script, 1, named).await?;
        }
    }
    guest.unstack(StackKind::Loop).await?;
    // Nothing of it was touched.
    guest.mount(THIRD, THIRD_MOUNT, "").await?;
    guest
        .shell(&format!("[ \"$(cat {THIRD_MOUNT}/file)\" = kept ]"))
        .await?;
    guest.unmount(THIRD_MOUNT).await?;
    let forced = guest
        .shell_to(&format!("{} --force", copy(THIRD)), 0)
        .await?;
    if !forced
        .stderr
        .contains("filesystem on /dev/vda3 is overwritten")
    {
        return Err(CaseError::Failed(format!(
            "--force does not say what it destroys: {}",
            forced.stderr
        )));
    }
    guest
        .shell(&format!(
            "cowbirdctl transition-to-incremental {MINOR}; cowbirdctl transition-to-snapshot -c 4 {MINOR}; \
             cowbirdctl changes {MINOR} --output /map; cowbirdctl update-image /dev/cowbird{MINOR} /map {THIRD}"
        ))
        .await?;
    guest
        .expect_shell_refusal(
            &format!("cowbirdctl update-image /dev/cowbird{MINOR} /map {ORIGIN}"),
            1,
            "the origin of snapshot 0",
        )
        .await?;
    destroy(guest).await
}

/// Images, maps and labels are nobody else's to read, and no link leads them elsewhere.
async fn private_files(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("files");
    set_up(guest).await?;
    // In the guest's root, which is in memory; sparse blocks there cost nothing.
    guest
        .shell(&format!(
            "cowbirdctl transition-to-incremental {MINOR}; cowbirdctl transition-to-snapshot -c 4 {MINOR}; \
             umask 0; mkdir /images; cd /images; echo mine > victim; ln -s victim link; \
             ln -s none dangling; \
             cowbirdctl changes {MINOR} --output map; \
             fails cowbirdctl changes {MINOR} --output link 2>/dev/null; \
             fails cowbirdctl changes {MINOR} --output dangling 2>/dev/null; \
             fails cowbirdctl copy-image /dev/cowbird{MINOR} dangling 2>/dev/null; \
             fails cowbirdctl copy-image /dev/cowbird{MINOR} link 2>/dev/null; \
             [ ! -e none ]; [ \"$(cat victim)\" = mine ]; [ \"$(stat -c %a map)\" = 600 ]; \
             cowbirdctl copy-image /dev/cowbird{MINOR} image; \
             [ \"$(stat -c %a image image.cowbird)\" = \"$(printf '600\\n600')\" ]; \
             cd /; rm -r /images"
        ))
        .await?;
    destroy(guest).await
}

/// Output that goes away or has no room, of each verb that prints.
async fn lost_output(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("output");
    set_up(guest).await?;
    guest
        .shell(&format!(
            "cowbirdctl transition-to-incremental {MINOR}; cowbirdctl transition-to-snapshot -c 4 {MINOR}"
        ))
        .await?;
    for verb in [
        "info".to_owned(),
        "info --json".to_owned(),
        format!("changes {MINOR}"),
        format!("changes {MINOR} --json"),
    ] {
        let full = format!("cowbirdctl {verb} > /dev/full");
        guest
            .expect_shell_refusal(&full, 1, "cannot write to standard output: No space left")
            .await?;
        let gone = format!(
            "{{ cowbirdctl {verb} && echo well >&2; }} | true; timeout 5 cowbirdctl {verb} > /dev/null"
        );
        let exited = guest.shell_to(&gone, 0).await?;
        if !["", "well\n"].contains(&exited.stderr.as_str()) {
            return Err(CaseError::Failed(format!("{verb}: {}", exited.stderr)));
        }
    }
    destroy(guest).await
}

/// Files that are no records beside one that is, and output that goes away meanwhile: the good one is taken up.
async fn bad_records(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("records");
    // Its COW file is reachable, and so handed over again at once.
    let taken_up = "case \"$(cowbirdctl info)\" in *UNVERIFIED*) exit 8;; *'active incremental'*) ;; *) exit 9;; esac";
    guest
        .shell(&format!(
            "cowbirdctl setup-snapshot -c 4 -f 12 {ORIGIN} {COW_MOUNT}/cow {MINOR}; \
             cowbirdctl transition-to-incremental {MINOR}; cowbirdctl suspend {MINOR}; \
             cd /etc/cowbird; : > empty.json; echo '{{}}' > foreign.json; echo '{{\"format\": 9}}' > newer.json; \
             ln -s nowhere dangling.json; ln -s /dev/zero endless.json; mkfifo pipe.json; mkdir folder.json"
        ))
        .await?;
    let script = format!(
        "code=0; timeout 60 cowbirdctl reload --all > /dev/full || code=$?; \
         {taken_up}; exit $code"
    );
    let exited = guest.shell_to(&script, 3).await?;
    for name in [
        "empty", "foreign", "newer", "dangling", "endless", "pipe", "folder",
    ] {
        if !exited
            .stderr
            .contains(&format!("/etc/cowbird/{name}.json: "))
        {
            return Err(CaseError::Failed(format!(
                "{name}.json is not named: {}",
                exited.stderr
            )));
        }
    }
    // A new snapshot at the same number replaces the record of the old one, and leaves the others.
    guest
        .shell(&format!(
            "cowbirdctl destroy {MINOR}; \
             timeout 60 cowbirdctl setup-snapshot -c 4 -f 12 {ORIGIN} {COW_MOUNT}/cow {MINOR} 2> /dev/null; \
             cowbirdctl destroy {MINOR}; cd /etc/cowbird; [ -p pipe.json ]; [ -L dangling.json ]; \
             [ \"$(cat newer.json)\" = '{{\"format\": 9}}' ]; rm -r /etc/cowbird"
        ))
        .await
        .map(|_| ())
}

/// A member of a RAID 5 that takes discarded blocks for zeros.
async fn parity(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("parity");
    let believe = |text: &str| Request::WriteText {
        path: "/sys/module/raid456/parameters/devices_handle_discard_safely".into(),
        text: text.into(),
    };
    guest
        .stack(&[ORIGIN, THIRD, IMAGE], StackKind::Parity)
        .await?;
    guest.prepare(believe("Y")).await?;
    guest
        .expect_shell_refusal(
            &format!("cowbirdctl setup-snapshot -f 8 {ORIGIN} {COW_MOUNT}/cow {MINOR}"),
            1,
            "devices_handle_discard_safely",
        )
        .await?;
    guest.shell(&format!("[ ! -e {COW_MOUNT}/cow ]")).await?;
    guest.prepare(believe("N")).await?;
    guest
        .shell(&format!(
            "cowbirdctl setup-snapshot -f 8 {ORIGIN} {COW_MOUNT}/cow {MINOR}; cowbirdctl destroy {MINOR}"
        ))
        .await?;
    guest.unstack(StackKind::Parity).await
}

/// An ext4 whose snapshot is mounted beside it, frozen and not frozen.
async fn mounted(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("mount");
    guest
        .shell(&format!(
            "mke2fs -q -F -t ext4 {ORIGIN}; mkdir -p /mnt/origin /mnt/snapshot; mount -t ext4 {ORIGIN} /mnt/origin; \
             echo before > /mnt/origin/file; \
             cowbirdctl setup-snapshot -f 12 {ORIGIN} {COW_MOUNT}/cow {MINOR}; echo after > /mnt/origin/file; \
             cowbirdctl mount {MINOR} /mnt/snapshot; [ \"$(cat /mnt/snapshot/file)\" = before ]; \
             fails dd if=/dev/zero of=/mnt/snapshot/file count=1 2>/dev/null; \
             umount /mnt/snapshot; umount /mnt/origin; cowbirdctl destroy {MINOR}"
        ))
        .await?;
    Ok(())
}

/// A COW file on an ext3, where zeros are written, under the writers.
async fn without_fallocate(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("ext3");
    guest
        .shell(&format!(
            "mke2fs -q -F -t ext3 -b 4096 -m 0 -J size=4 {THIRD}; mkdir -p {THIRD_MOUNT}; mount -t ext4 {THIRD} {THIRD_MOUNT}"
        ))
        .await?;
    guest.makes(Fault::NoRoom)?;
    guest
        .expect_shell_refusal(
            &format!("cowbirdctl setup-snapshot -f 500 {ORIGIN} {THIRD_MOUNT}/cow {MINOR}"),
            1,
            "No space left",
        )
        .await?;
    guest
        .expect_shell_refusal(
            &format!("cowbirdctl setup-snapshot -f 0 {ORIGIN} {THIRD_MOUNT}/cow {MINOR}"),
            2,
            "0 is not in",
        )
        .await?;
    let spec = SnapshotSpec {
        cow_file: "/mnt/third/cow",
        ..raw_writers::spec(ORIGIN)
    };
    let evidence =
        raw_writers::write_across_the_instant(guest, context, ORIGIN, spec, None).await?;
    guest.unmount(THIRD_MOUNT).await?;
    Ok(evidence)
}

/// A COW file on the realtime device of an xfs, whose addresses are not those of the device that the filesystem seems to be on.
/// It is refused, and the filesystem is whole.
async fn act_elsewhere(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.phase("realtime");
    let mount = format!("mount -t xfs -o rtdev={IMAGE} {THIRD} {THIRD_MOUNT}");
    guest
        .shell(&format!(
            "mkdir -p {THIRD_MOUNT}; \
             mkfs.xfs -q -f -K --unsupported -l size=10m -d agcount=2,rtinherit=1 -m bigtime=0,inobtcount=0,reflink=0 \
             -r rtdev={IMAGE} {THIRD}; {mount}; \
             echo kept > {THIRD_MOUNT}/file; \
             at=0; while [ $at -lt 400 ]; do : > {THIRD_MOUNT}/$at; at=$((at + 1)); done; \
             umount {THIRD_MOUNT}; {mount}"
        ))
        .await?;
    let setup = format!("cowbirdctl setup-snapshot -c 1 -f 8 {ORIGIN} {THIRD_MOUNT}/cow {MINOR}");
    let outcome = guest.shell_to_any_end(&setup).await?;
    if outcome.code == Some(0) {
        // More than fits the memory, so that it goes to the COW file.
        guest
            .shell(&format!(
                "dd if=/dev/zero of={ORIGIN} bs=1M count=6 conv=fsync 2>/dev/null; cowbirdctl destroy {MINOR}"
            ))
            .await?;
    }
    // What is damaged may not be unmounted without an error.
    let unmount = format!("umount {THIRD_MOUNT}");
    guest.shell_to_any_end(&unmount).await?;
    let repair = format!("xfs_repair -n -r {IMAGE} {THIRD} 2>&1");
    let repaired = guest.shell_to_any_end(&repair).await?;
    if repaired.code != Some(0) {
        let said: Vec<&str> = repaired.stdout.lines().take(12).collect();
        return Err(CaseError::Failed(format!(
            "setup-snapshot ended with {:?} ({}), and xfs_repair with {:?}: {}",
            outcome.code,
            outcome.stderr.trim(),
            repaired.code,
            said.join(" / ")
        )));
    }
    if outcome.code != Some(1) || !outcome.stderr.contains("realtime") {
        return Err(CaseError::Failed(format!(
            "a COW file on a realtime device was not refused for that: {:?}: {}",
            outcome.code, outcome.stderr
        )));
    }
    guest.note(format!("refused as it must be: {}", outcome.stderr.trim()));
    // On the data device it is well.
    guest
        .shell(&format!(
            "{mount}; [ ! -e {THIRD_MOUNT}/cow ]; [ \"$(cat {THIRD_MOUNT}/file)\" = kept ]; umount {THIRD_MOUNT}; \
             mkfs.xfs -q -f -K --unsupported -l size=10m -d agcount=2 -m bigtime=0,inobtcount=0 {THIRD}; \
             mount -t xfs {THIRD} {THIRD_MOUNT}; \
             cowbirdctl setup-snapshot -f 8 {ORIGIN} {THIRD_MOUNT}/cow {MINOR}; cowbirdctl destroy {MINOR}; \
             umount {THIRD_MOUNT}; xfs_repair -n {THIRD} 2>&1"
        ))
        .await?;
    beside_its_origin(guest).await?;
    guest.phase("teardown");
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::witness_only())
}

/// An xfs whose snapshot is mounted beside it.
async fn beside_its_origin(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("mount");
    guest
        .shell(&format!(
            "mount -t xfs {THIRD} {THIRD_MOUNT}; mkdir -p /mnt/snapshot; echo before > {THIRD_MOUNT}/file; \
             cowbirdctl setup-snapshot -f 12 {THIRD} {THIRD_MOUNT}/cow {MINOR}; echo after > {THIRD_MOUNT}/file; \
             fails mount -t xfs -o ro /dev/cowbird{MINOR} /mnt/snapshot 2>/dev/null; \
             cowbirdctl mount {MINOR} /mnt/snapshot; [ \"$(cat /mnt/snapshot/file)\" = before ]; \
             umount /mnt/snapshot; cowbirdctl destroy {MINOR}; umount {THIRD_MOUNT}"
        ))
        .await
        .map(|_| ())
}
