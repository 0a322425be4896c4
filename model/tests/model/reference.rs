//! The oracle against a naive reference that keeps every version of the whole disk.
//!
//! Goal: fold, comparison and classification are right for any log, not for the hand-made ones.
//! Method: random logs over a small disk with few distinct contents, so that versions, places and
//! zeros collide often; images damaged in the ways that a module damages them; the reference
//! replays the log into full copies of the disk and searches them by brute force.

use crate::common::{LogBuilder, UUID, marker_of, replay};
use cowbird_model::{
    BlockIndex, BlockSet, Class, DiscardModel, EntryIndex, Epoch, EpochHeader, Holes, Oracle,
    Origin, SECTOR_BYTES, Sector, SectorRange, Truth, WitnessLog, self_check, self_check_sparse,
};
use proptest::prelude::*;

pub const DISK_SECTORS: u64 = 96;

/// One request of the guest.
#[derive(Clone, Debug)]
pub enum Op {
    Write { sector: u64, contents: Vec<u8> },
    Discard { sector: u64, sectors: u64 },
    Flush,
}

/// One way in which an image goes wrong, at a block chosen by the first number.
#[derive(Clone, Debug)]
enum Damage {
    Version {
        block: u64,
        version: usize,
    },
    Sector {
        block: u64,
        sector: u64,
        version: usize,
    },
    Elsewhere {
        block: u64,
        sector: u64,
    },
    Fill {
        block: u64,
        byte: u8,
    },
}

#[derive(Clone, Debug)]
struct Scenario {
    /// Content of each sector of the disk before the log, as for [`sector`].
    base: Vec<u8>,
    ops: Vec<Op>,
    marker_at: usize,
    header_sector: u64,
    origin: SectorRange,
    own: Vec<(u64, u64)>,
    discard: DiscardModel,
    damages: Vec<Damage>,
}

impl Scenario {
    fn disk(&self) -> Vec<u8> {
        self.base
            .iter()
            .flat_map(|content| sector(*content))
            .collect()
    }
}

/// A sector of one of four contents, zeros among them; the others do not say where they belong, so
/// that content found elsewhere is common.
pub fn sector(content: u8) -> Vec<u8> {
    vec![content % 4; SECTOR_BYTES]
}

pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..DISK_SECTORS, prop::collection::vec(0u8..4, 1..20)).prop_map(|(sector, contents)| {
            let fit = (DISK_SECTORS - sector) as usize;
            Op::Write { sector, contents: contents.into_iter().take(fit).collect() }
        }),
        2 => (0..DISK_SECTORS, 1u64..20).prop_map(|(sector, sectors)| Op::Discard {
            sector,
            sectors: sectors.min(DISK_SECTORS - sector),
        }),
        1 => Just(Op::Flush),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0u64..12, 0usize..40).prop_map(|(block, version)| Damage::Version { block, version }),
        (0u64..12, 0u64..8, 0usize..40).prop_map(|(block, sector, version)| Damage::Sector {
            block,
            sector,
            version
        }),
        (0u64..12, 0..DISK_SECTORS).prop_map(|(block, sector)| Damage::Elsewhere { block, sector }),
        (0u64..12, 0u8..6).prop_map(|(block, byte)| Damage::Fill { block, byte }),
    ]
}

prop_compose! {
    fn scenario()(
        base in prop::collection::vec(0u8..4, DISK_SECTORS as usize),
        ops in prop::collection::vec(op(), 0..30),
        marker in any::<prop::sample::Index>(),
        header_sector in 0..=DISK_SECTORS - 8,
        start in 0u64..20,
        sectors in 1u64..=76,
        own in prop::collection::vec((0u64..12, 1u64..3), 0..2),
        zeroes in any::<bool>(),
        damages in prop::collection::vec(damage(), 0..6),
    ) -> Scenario {
        Scenario {
            base,
            marker_at: marker.index(ops.len() + 1),
            ops,
            header_sector,
            origin: SectorRange::new(Sector(start), sectors),
            own,
            discard: if zeroes { DiscardModel::Zeroes } else { DiscardModel::Ignored },
            damages,
        }
    }
}

fn build_log(scenario: &Scenario) -> Vec<u8> {
    let mut builder = LogBuilder::new();
    let marker = |builder: &mut LogBuilder| {
        builder.marker(scenario.header_sector, scenario.origin.sectors, 1);
    };
    for (at, op) in scenario.ops.iter().enumerate() {
        if at == scenario.marker_at {
            marker(&mut builder);
        }
        match op {
            Op::Write {
                sector: start,
                contents,
            } => {
                let data: Vec<u8> = contents.iter().flat_map(|byte| sector(*byte)).collect();
                builder.write(*start, &data);
            }
            Op::Discard { sector, sectors } => {
                builder.discard(*sector, *sectors);
            }
            Op::Flush => {
                builder.flush();
            }
        }
    }
    if scenario.marker_at == scenario.ops.len() {
        marker(&mut builder);
    }
    builder.finish()
}

/// Every version of the disk: before the log, and after each entry.
struct Reference {
    disks: Vec<Vec<u8>>,
    /// What the entry before each version wrote: without a write there is no version of a block.
    written: Vec<SectorRange>,
    marker: usize,
    origin: Origin,
    own: BlockSet,
}

impl Reference {
    fn new(scenario: &Scenario, log: &WitnessLog<'_>, own: BlockSet) -> Self {
        let mut disks = vec![scenario.disk()];
        let mut written = vec![SectorRange::new(Sector(0), DISK_SECTORS)];
        for entry in log.entries() {
            let mut disk = disks[disks.len() - 1].clone();
            replay(&mut disk, entry, scenario.discard);
            disks.push(disk);
            let writes = scenario.discard.changes_content(entry);
            written.push(SectorRange::new(
                entry.sector,
                if writes { entry.sectors } else { 0 },
            ));
        }
        let marker = marker_of(log).entry.0 as usize;
        Self {
            disks,
            written,
            marker,
            origin: Origin::new(scenario.origin),
            own,
        }
    }

    fn block(&self, version: usize, block: u64) -> &[u8] {
        let range = self.origin.block_range(BlockIndex(block));
        let from = range.start.0 as usize * SECTOR_BYTES;
        &self.disks[version][from..from + range.bytes() as usize]
    }

    fn image(&self) -> Vec<u8> {
        let mut image = Vec::new();
        for block in 0..self.origin.blocks() {
            let content = self.block(self.marker, block);
            if self.own.contains(BlockIndex(block)) {
                image.resize(image.len() + content.len(), 0);
            } else {
                image.extend_from_slice(content);
            }
        }
        image
    }

    /// The class by the rules of the documentation, one after the other.
    fn class(&self, block: u64, observed: &[u8]) -> Class {
        let last = self.disks.len();
        let is = |version: usize| self.block(version, block) == observed;
        let range = self.origin.block_range(BlockIndex(block));
        let made = |version: &usize| self.written[*version].intersect(&range).is_some();
        if (self.marker + 1..last).filter(made).any(is) {
            return Class::Future;
        }
        if observed.iter().all(|byte| *byte == 0) {
            return Class::Zeroed;
        }
        // The version of the instant itself cannot fit, except in an own block.
        if (0..=self.marker).any(is) {
            return Class::Stale;
        }
        let known = |(at, sector): (usize, &[u8])| {
            let from = at * SECTOR_BYTES;
            (0..last)
                .any(|version| self.block(version, block)[from..from + SECTOR_BYTES] == *sector)
        };
        if observed.chunks(SECTOR_BYTES).enumerate().all(known) {
            return Class::Torn;
        }
        let from = self.origin.range.start.0 as usize * SECTOR_BYTES;
        let truth = &self.disks[self.marker][from..from + self.origin.range.bytes() as usize];
        let mut places = truth.windows(observed.len()).step_by(SECTOR_BYTES);
        if places.any(|place| place == observed) {
            Class::Misplaced
        } else {
            Class::Foreign
        }
    }
}

fn apply_damage(reference: &Reference, image: &mut [u8], damage: &Damage) {
    let (Damage::Version { block, .. }
    | Damage::Sector { block, .. }
    | Damage::Elsewhere { block, .. }
    | Damage::Fill { block, .. }) = *damage;
    let block = block % reference.origin.blocks();
    let range = reference.origin.block_range(BlockIndex(block));
    let from = (range.start.0 - reference.origin.range.start.0) as usize * SECTOR_BYTES;
    let length = range.bytes() as usize;
    match *damage {
        Damage::Version { version, .. } => {
            let version = version % reference.disks.len();
            image[from..from + length].copy_from_slice(reference.block(version, block));
        }
        Damage::Sector {
            sector, version, ..
        } => {
            let version = version % reference.disks.len();
            let at = (sector % range.sectors) as usize * SECTOR_BYTES;
            let content = &reference.block(version, block)[at..at + SECTOR_BYTES];
            image[from + at..from + at + SECTOR_BYTES].copy_from_slice(content);
        }
        Damage::Elsewhere { sector, .. } => {
            let last = DISK_SECTORS - range.sectors;
            let at = (sector % (last + 1)) as usize * SECTOR_BYTES;
            let content = &reference.disks[reference.marker][at..at + length];
            image[from..from + length].copy_from_slice(content);
        }
        Damage::Fill { byte, .. } => image[from..from + length].fill(byte),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_oracle_agrees_with_brute_force(scenario in scenario()) {
        let (base, bytes) = (scenario.disk(), build_log(&scenario));
        let log = WitnessLog::parse(&bytes).expect("the builder makes whole logs");
        let mut own = BlockSet::new();
        for (first, blocks) in &scenario.own {
            own.insert(BlockIndex(*first), *blocks);
        }
        let reference = Reference::new(&scenario, &log, own.clone());
        let discard = scenario.discard;

        for upto in 0..=log.entries().len() {
            let truth = Truth::at(&base, &log, EntryIndex(upto as u64), discard)
                .expect("the log fits the disk");
            let all = SectorRange::new(Sector(0), DISK_SECTORS);
            prop_assert_eq!(truth.read(all), reference.disks[upto].clone());
            let inner = SectorRange::new(Sector(5), 17);
            prop_assert_eq!(truth.read(inner), reference.disks[upto][5 * 512..22 * 512].to_vec());
        }
        let last = &reference.disks[reference.disks.len() - 1];
        prop_assert_eq!(self_check(&base, &log, last, discard), Ok(()));

        let marker = marker_of(&log);
        let oracle = Oracle::new(&base, &log, marker, scenario.origin, &own, discard)
            .expect("the input fits");
        let right = reference.image();
        let mut image = right.clone();
        for damage in &scenario.damages {
            apply_damage(&reference, &mut image, damage);
        }
        let mut expected = Vec::new();
        for block in 0..reference.origin.blocks() {
            let from = block as usize * 4096;
            let to = image.len().min(from + 4096);
            let observed = &image[from..to];
            if *observed != right[from..to] {
                expected.push((BlockIndex(block), reference.class(block, observed)));
            }
        }
        let report = oracle.verify(&image).expect("the image fits");
        let got: Vec<_> = report.bad.iter().map(|bad| (bad.block, bad.class)).collect();
        prop_assert_eq!(&got, &expected);
        prop_assert_eq!(report.blocks_checked, reference.origin.blocks());
        prop_assert_eq!(report.blocks_bad, expected.len() as u64);
        prop_assert_eq!(report.classes.values().sum::<u64>(), report.blocks_bad);
        prop_assert_eq!(report.runs.iter().map(|run| run.blocks).sum::<u64>(), report.blocks_bad);
        // With the holes known that there may be, nothing else is found.
        let holes = Holes {
            base: zero_sectors(&base, 0),
            other: zero_sectors(&image, scenario.origin.start.0),
        };
        let mut pieces = 0;
        let sparse = oracle.verify_sparse(&image, &holes, &mut || pieces += 1);
        prop_assert_eq!(sparse.expect("the image fits"), report.clone());
        let disk_holes = Holes { base: zero_sectors(&base, 0), other: zero_sectors(last, 0) };
        let checked = self_check_sparse(&base, &log, last, discard, &disk_holes, &mut || {});
        prop_assert_eq!(checked, Ok(()));
        // As observations, in another order and each twice, the blocks are judged as in the image.
        let blocks = 0..reference.origin.blocks();
        let seen: Vec<_> = blocks
            .rev()
            .flat_map(|block| [block, block])
            .map(|block| {
                let from = block as usize * 4096;
                (BlockIndex(block), &image[from..image.len().min(from + 4096)])
            })
            .collect();
        let answers = oracle.classify_observations(&seen).expect("blocks of the origin");
        for ((block, content), answer) in seen.iter().zip(answers) {
            let listed = report.bad.iter().find(|bad| bad.block == *block).cloned();
            prop_assert_eq!(&answer, &listed);
            let alone = oracle.classify_observation(*block, content);
            prop_assert_eq!(alone.expect("a block of the origin"), listed);
        }
    }

    /// Goal: a damaged log is an error or another log, never a panic or an endless loop.
    /// Method: flip, cut and overwrite bytes of a whole log, mostly in its headers.
    #[test]
    fn no_log_makes_the_parser_panic(
        scenario in scenario(),
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cut_it in any::<bool>(),
    ) {
        let mut bytes = build_log(&scenario);
        for (at, byte, in_header) in patches {
            let sector = at.index(bytes.len() / SECTOR_BYTES) * SECTOR_BYTES;
            let at = if in_header { sector + byte as usize % 32 } else { at.index(bytes.len()) };
            bytes[at] = byte;
        }
        if cut_it {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(log) = WitnessLog::parse(&bytes) {
            let _ = Truth::at(&scenario.disk(), &log, log.end(), scenario.discard);
            let _ = cowbird_model::find_markers(&log);
        }
    }
}

/// The sectors that are zeros, each a hole of its own, of a file that begins at a sector of the disk.
fn zero_sectors(file: &[u8], start: u64) -> Vec<SectorRange> {
    let sectors = file.chunks(SECTOR_BYTES).enumerate();
    sectors
        .filter(|(_, sector)| sector.iter().all(|byte| *byte == 0))
        .map(|(at, _)| SectorRange::new(Sector(start + at as u64), 1))
        .collect()
}

/// The header of these tests is what the module would write.
#[test]
fn the_marker_of_the_scenarios_is_found() {
    let mut builder = LogBuilder::new();
    builder.marker(8, 16, 1);
    let bytes = builder.finish();
    let log = WitnessLog::parse(&bytes).expect("a whole log");
    let header = EpochHeader {
        uuid: UUID,
        epoch: Epoch(1),
        origin_sectors: 16,
        cow_slots: 4,
        flags: 0,
    };
    assert_eq!(marker_of(&log).header, header);
}
