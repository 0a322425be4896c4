//! The judge against evidence made by hand: a disk with an ext4, and a witness of one write, the
//! epoch header. Needs e2fsprogs, as every cell does.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::exhibits::Testimony;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_checks::judgement::Judgement;
use cowbird_checks::lockstep_writers::CommonInstants;
use cowbird_checks::power_cuts::{EarlierPowerCuts, PowerCuts};
use cowbird_checks::restored::Restored;
use cowbird_checks::verify;
use cowbird_host::disk::{self, Filesystem, Partition};
use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_host::files::CellFiles;
use cowbird_host::nature::{FurtherDisk, Nature, OriginKind};
use cowbird_model::{BlockSet, Class, Epoch, EpochHeader, MarkerKey, Sector, SectorRange};
use cowbird_proto::message::{GoldenFile, LockstepWritersSpec, Observation, WorkloadId};
use sha2::{Digest, Sha256};

const ORIGIN: Partition = Partition {
    start: 2048,
    sectors: 16 << 11,
};

/// Behind the origin; where the epoch header goes.
const HEADER_SECTOR: u32 = ORIGIN.start + ORIGIN.sectors;

const DISK_BYTES: u64 = (HEADER_SECTOR as u64 + 2048) * 512;

const UUID: [u8; 16] = [0xC0; 16];

const GOLDEN: &[u8] = b"synced before the snapshot";

/// A disk whose origin is an ext4 with one file, its witness, and a true image.
fn scene(dir: &Path) -> (CellFiles, ImageClaim) {
    let files = CellFiles {
        dir: dir.to_owned(),
    };
    let content = dir.join("content/golden");
    fs::create_dir_all(&content).expect("folder");
    fs::write(content.join("g0"), GOLDEN).expect("golden file");
    disk::create_partitioned(&files.base(), DISK_BYTES, 512, &[ORIGIN], &[ORIGIN], 1)
        .expect("disk");
    disk::run(
        "mkfs.ext4",
        "package e2fsprogs",
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-E"])
            .arg(format!("offset={}", ORIGIN.offset_bytes()))
            .arg("-d")
            .arg(dir.join("content"))
            .arg(files.base())
            .arg(format!("{}k", ORIGIN.length_bytes() / 1024)),
    )
    .expect("ext4");
    let header = EpochHeader {
        uuid: UUID,
        epoch: Epoch(1),
        origin_sectors: ORIGIN.sectors.into(),
        cow_slots: 1,
        flags: 0,
    }
    .encode();
    disk::copy_sparse(&files.base(), &files.origin()).expect("copy");
    write_at(&files.origin(), u64::from(HEADER_SECTOR) * 512, &header);
    fs::write(
        files.witness(),
        witness_of(&[(HEADER_SECTOR.into(), &header)]),
    )
    .expect("log");
    let base = fs::read(files.base()).expect("base");
    let from = ORIGIN.offset_bytes() as usize;
    fs::write(
        files.image(),
        &base[from..from + ORIGIN.length_bytes() as usize],
    )
    .expect("image");
    let marker = MarkerKey {
        uuid: UUID,
        epoch: Epoch(1),
    };
    let origin = SectorRange::new(Sector(ORIGIN.start.into()), ORIGIN.sectors.into());
    let golden = GoldenFile {
        path: "golden/g0".into(),
        bytes: GOLDEN.len() as u64,
        sha256: Sha256::digest(GOLDEN).into(),
    };
    let image = ImageClaim::new(marker, origin).with_files(vec![golden]);
    (files, image)
}

/// The format is described in the kernel's `drivers/md/dm-log-writes.c`.
fn witness_of(writes: &[(u64, &[u8])]) -> Vec<u8> {
    let words = |words: &[u64]| -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(512, 0);
        bytes
    };
    const MAGIC: u64 = 0x6A_7366_7773_6872;
    let mut log = words(&[MAGIC, 1, writes.len() as u64, 512]);
    for (sector, data) in writes {
        log.extend(words(&[*sector, data.len() as u64 / 512, 0, 0]));
        log.extend_from_slice(data);
    }
    log
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("open");
    file.write_all_at(bytes, offset).expect("write");
}

/// Disks of which the first partition is the origin, and nothing else is there.
const PLAIN: Nature = Nature {
    kind: OriginKind::Partition,
    first: ORIGIN,
    further: FurtherDisk::None,
};

fn judge(
    files: &CellFiles,
    evidence: Evidence,
    observations: &[Observation],
) -> HarnessResult<Judgement> {
    let said = Testimony {
        observations,
        ..Testimony::default()
    };
    verify::judge(files, PLAIN, &evidence, said)
}

#[test]
fn a_true_image_has_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let (files, evidence) = scene(folder.path());
    let judgement = judge(&files, evidence.into(), &[]).unwrap();
    assert_eq!(judgement.faults, Vec::<String>::new());
    assert_eq!(judgement.blocks_checked, u64::from(ORIGIN.sectors / 8));
    assert_eq!(judgement.blocks_bad, 0);
}

/// Goal: the disk that the image was copied back to is judged by its blocks, its filesystem and its users. Method: the
/// true disk, then one on which a restore went wrong in the block of the block bitmap.
#[test]
fn a_restored_disk_is_judged_as_the_image_is() {
    let folder = tempfile::tempdir().unwrap();
    let (files, mut evidence) = scene(folder.path());
    let judged = |evidence: &ImageClaim| judge(&files, evidence.clone().into(), &[]).unwrap();
    let restored = |faults| {
        OfImage::Restored(Restored {
            untouched: true,
            filesystem: Some(Filesystem::Ext4),
            faults,
        })
    };
    evidence.more.push(restored(Vec::new()));
    assert_eq!(judged(&evidence).faults, Vec::<String>::new());
    assert_eq!(
        judged(&evidence).blocks_checked,
        2 * u64::from(ORIGIN.sectors / 8)
    );

    let wrong = [0xFF; 4096];
    let place = ORIGIN.offset_bytes() + 4096;
    let mut header = [0; 4096];
    let disk = fs::File::open(files.origin()).unwrap();
    disk.read_exact_at(&mut header, u64::from(HEADER_SECTOR) * 512)
        .unwrap();
    let log = witness_of(&[(HEADER_SECTOR.into(), &header), (place / 512, &wrong)]);
    fs::write(files.witness(), log).unwrap();
    write_at(&files.origin(), place, &wrong);
    evidence.more.pop();
    evidence
        .more
        .push(restored(vec!["its users are not content".into()]));
    let judgement = judged(&evidence);
    assert_eq!(judgement.blocks_bad, 1);
    let faults = judgement.faults.join("\n");
    assert!(
        faults.contains("restored disk: 1 of 4096 blocks"),
        "{faults}"
    );
    assert!(faults.contains("restored disk: e2fsck"), "{faults}");
    assert!(faults.contains("restored disk: its users"), "{faults}");
}

/// Goal: the filesystem and the files are checked beside the blocks.
#[test]
fn a_damaged_image_is_found_by_blocks_filesystem_and_files() {
    let folder = tempfile::tempdir().unwrap();
    let (files, mut evidence) = scene(folder.path());
    // The block bitmap of the first group lies behind superblock and descriptors.
    write_at(&files.image(), 4096, &[0xFF; 4096]);
    if let Some(OfImage::Files(golden)) = evidence.more.last_mut() {
        golden[0].sha256[0] ^= 1;
    }
    let judgement = judge(&files, evidence.into(), &[]).unwrap();
    assert_eq!(judgement.blocks_bad, 1);
    let faults = judgement.faults.join("\n");
    assert!(faults.contains("1 of 4096 blocks"), "{faults}");
    assert!(faults.contains("e2fsck"), "{faults}");
    assert!(faults.contains("golden/g0"), "{faults}");
}

/// Goal: a block that was once read wrong counts although the image is right.
#[test]
fn a_wrong_observation_is_a_bad_block() {
    let folder = tempfile::tempdir().unwrap();
    let (files, mut evidence) = scene(folder.path());
    evidence.differing_reads = 7;
    let observation = Observation {
        workload: WorkloadId(1),
        block: 9,
        reader: 2,
        at_ns: 0,
        content: vec![0; 4096],
    };
    let observations = [observation.clone(), observation];
    let judgement = judge(&files, evidence.into(), &observations).unwrap();
    assert_eq!(judgement.blocks_bad, 1, "the same block twice is one block");
    assert_eq!(judgement.classes.get(&Class::Zeroed), Some(&1));
    assert!(judgement.faults.join("\n").contains("7 reads differ"));
}

/// Goal: a block that was read wrong is a fault even if nobody counted a differing read.
#[test]
fn a_wrong_observation_alone_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let (files, evidence) = scene(folder.path());
    let observation = Observation {
        workload: WorkloadId(1),
        block: 9,
        reader: 2,
        at_ns: 0,
        content: vec![0; 4096],
    };
    let judgement = judge(&files, evidence.into(), &[observation]).unwrap();
    assert_eq!(judgement.blocks_bad, 1);
    assert_eq!(judgement.faults.len(), 1, "{:?}", judgement.faults);
}

/// Goal: a wrong block of the image that was also read wrong is one bad block.
#[test]
fn a_block_wrong_in_image_and_observation_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let (files, mut evidence) = scene(folder.path());
    evidence.more.clear();
    write_at(&files.image(), 9 * 4096, &[0; 4096]);
    let observation = Observation {
        workload: WorkloadId(1),
        block: 9,
        reader: 2,
        at_ns: 0,
        content: vec![0; 4096],
    };
    let judgement = judge(&files, evidence.into(), &[observation]).unwrap();
    assert_eq!(judgement.blocks_bad, 1);
    assert_eq!(judgement.classes.values().sum::<u64>(), 1);
}

/// Goal: the tracer must name the oracle's blocks, and others only where the oracle was not told.
/// Method: one block read wrong and shown, of one or two reads that differ.
#[test]
fn the_tracer_is_compared_with_the_oracle() {
    let folder = tempfile::tempdir().unwrap();
    let (files, evidence) = scene(folder.path());
    let observation = Observation {
        workload: WorkloadId(1),
        block: 9,
        reader: 2,
        at_ns: 0,
        content: vec![0; 4096],
    };
    let faults = |traced: &[u64], differing_reads| {
        let traced = OfImage::TracerNames(traced.iter().copied().collect());
        let image = evidence.clone().differing_reads(differing_reads);
        let observations = std::slice::from_ref(&observation);
        let judged = judge(&files, image.with(traced).into(), observations);
        judged.unwrap().faults.join("\n")
    };
    assert!(!faults(&[9], 1).contains("tracer"));
    assert!(faults(&[], 1).contains("the tracer does not name blocks 9"));
    assert!(faults(&[9, 10], 1).contains("of 1 blocks only the tracer says"));
    assert!(!faults(&[9, 10], 2).contains("tracer"));
}

/// Goal: a witness that contradicts its disk is not held against the module.
#[test]
fn a_disk_that_the_witness_did_not_see_written_is_infrastructure() {
    let folder = tempfile::tempdir().unwrap();
    let (files, evidence) = scene(folder.path());
    write_at(&files.origin(), ORIGIN.offset_bytes() + 81_920, &[1; 512]);
    let error = judge(&files, evidence.into(), &[]).unwrap_err();
    assert!(matches!(error, HarnessError::Witness { .. }), "{error}");
}

/// Goal: a module that wrote no header has failed; nothing can be said about its blocks.
#[test]
fn a_missing_epoch_header_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let (files, mut evidence) = scene(folder.path());
    evidence.marker.epoch = Epoch(2);
    let judgement = judge(&files, evidence.into(), &[]).unwrap();
    assert_eq!(judgement.blocks_checked, 0);
    assert!(
        judgement.faults[0].contains("no snapshot instant"),
        "{:?}",
        judgement.faults
    );
}

/// The scene with a copy of its first disk, which was written as the first was.
fn with_copy(files: &CellFiles) {
    disk::copy_sparse(&files.origin(), &files.mirror()).expect("a copy");
    fs::copy(files.witness(), files.mirror_witness()).expect("its log");
}

/// Goal: halves of a mirror that differ are a fault although no case claims anything of them. Method: a copy that was
/// written otherwise than the first disk, under a witness that knows of it.
#[test]
fn a_mirror_is_compared_whatever_a_case_claims() {
    let folder = tempfile::tempdir().unwrap();
    let (files, image) = scene(folder.path());
    with_copy(&files);
    let mirror = Nature {
        kind: OriginKind::Mirror,
        further: FurtherDisk::Copy,
        ..PLAIN
    };
    let judged = |nature| {
        let evidence = Evidence::from(image.clone());
        verify::judge(&files, nature, &evidence, Testimony::default()).expect("it can be judged")
    };
    assert_eq!(judged(mirror).faults, Vec::<String>::new());

    let mut header = [0; 4096];
    let disk = fs::File::open(files.origin()).unwrap();
    disk.read_exact_at(&mut header, u64::from(HEADER_SECTOR) * 512)
        .unwrap();
    let place = ORIGIN.offset_bytes() + 81_920;
    let log = witness_of(&[
        (HEADER_SECTOR.into(), &header),
        (place / 512, &[0xEE; 4096]),
    ]);
    fs::write(files.mirror_witness(), log).unwrap();
    write_at(&files.mirror(), place, &[0xEE; 4096]);
    assert_eq!(
        judged(mirror).faults,
        ["the two halves of the mirror differ at the end"]
    );
    // A copy that is no half of the origin may hold anything.
    let beside = Nature {
        kind: OriginKind::Partition,
        ..mirror
    };
    assert_eq!(judged(beside).faults, Vec::<String>::new());
}

/// Goal: the witness of a further disk is on trial as the first one's is, without any claim. Method: a copy and a second
/// volume, each with a write that its witness has not seen.
#[test]
fn every_witness_must_agree_with_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = scene(folder.path());
    with_copy(&files);
    let second = files.second();
    fs::create_dir_all(&second.dir).unwrap();
    for (from, to) in [
        (files.base(), second.base()),
        (files.origin(), second.origin()),
        (files.witness(), second.witness()),
    ] {
        fs::copy(from, to).expect("the second volume is as the first");
    }
    let judged = |further| {
        let nature = Nature { further, ..PLAIN };
        let nothing = Evidence::witness_only();
        verify::judge(&files, nature, &nothing, Testimony::default()).map(|judged| judged.faults)
    };
    for (further, disk) in [
        (FurtherDisk::Copy, files.mirror()),
        (FurtherDisk::SecondVolume, second.origin()),
    ] {
        assert_eq!(judged(further).expect("it agrees"), Vec::<String>::new());
        write_at(&disk, ORIGIN.offset_bytes() + 81_920, &[1; 512]);
        let error = judged(further).unwrap_err();
        assert!(matches!(error, HarnessError::Witness { .. }), "{error}");
    }
    assert!(judged(FurtherDisk::None).is_ok());
}

/// Goal: a further disk to which nothing was written has an empty log, and may be so; one that was written to may not.
#[test]
fn an_empty_log_is_that_of_an_untouched_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = scene(folder.path());
    disk::copy_sparse(&files.base(), &files.mirror()).expect("a copy");
    fs::write(files.mirror_witness(), []).unwrap();
    let nature = Nature {
        further: FurtherDisk::Copy,
        ..PLAIN
    };
    let judged = || {
        let nothing = Evidence::witness_only();
        verify::judge(&files, nature, &nothing, Testimony::default())
    };
    assert_eq!(judged().expect("nothing was written").faults, [""; 0]);
    write_at(&files.mirror(), ORIGIN.offset_bytes(), &[1; 512]);
    let error = judged().unwrap_err();
    assert!(matches!(error, HarnessError::Witness { .. }), "{error}");
}

/// Goal: what cannot be known is no verdict on the module: a claim of a disk that is not there, of a workload that was
/// not replayed, and of a journal of which a part is lost.
#[test]
fn a_claim_without_its_exhibit_is_the_harness_s_fault() {
    let folder = tempfile::tempdir().unwrap();
    let (files, image) = scene(folder.path());
    let instants = CommonInstants {
        volumes: [image.clone(), image],
        instants: Vec::new(),
        lockstep: LockstepWritersSpec {
            devices: ["/dev/vda1".into(), "/dev/vdc1".into()],
            seed: 1,
            writers: 1,
            slots: 1,
        },
    };
    for (claim, said) in [
        (Claim::CommonInstants(Box::new(instants)), "second volume"),
        (Claim::OriginHoldsReplay, "there is none"),
        (Claim::OriginHoldsJournal, "longer than what is kept"),
    ] {
        let lossy = Testimony {
            dropped: 1,
            ..Testimony::default()
        };
        let error = verify::judge(&files, PLAIN, &Evidence::of(claim), lossy).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// Goal: who claims nothing passes only if he means that. Method: each way to claim nothing.
#[test]
fn nothing_claimed_is_no_pass() {
    let folder = tempfile::tempdir().unwrap();
    let (files, image) = scene(folder.path());
    let no_cuts = EarlierPowerCuts {
        cuts: PowerCuts {
            first: image.marker,
            origin: image.origin,
            own: BlockSet::new(),
            cuts: 0,
            seed: 1,
        },
        boot: 0,
    };
    for evidence in [
        Evidence::default(),
        Evidence::of(Claim::ScriptRuns(Vec::new())),
        Evidence::of(Claim::PowerCuts(no_cuts)),
    ] {
        let error = verify::judge(&files, PLAIN, &evidence, Testimony::default()).unwrap_err();
        assert!(error.to_string().contains("nothing was judged"), "{error}");
    }
    let meant = Evidence::failed_snapshot(&[]);
    assert!(verify::judge(&files, PLAIN, &meant, Testimony::default()).is_ok());
}
