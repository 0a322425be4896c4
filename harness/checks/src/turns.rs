//! Two volumes whose snapshots were taken at one instant: what writers that wrote to both in turns
//! left on each, put before the oracle.

use cowbird_host::error::HarnessResult;
use cowbird_host::files::CellFiles;
use cowbird_model::{
    BLOCK_BYTES, MarkerKey, Sector, SectorRange, Truth, TurnFault, WitnessLog, check_turns,
    find_marker,
};
use cowbird_proto::message::TurnsSpec;
use cowbird_proto::sector::{SECTOR_BYTES, SectorIdentity};

use crate::exhibits::{DISCARD_MODEL, map, untrusted};

/// What every writer wrote last into each of its slots.
type Rounds = Vec<Vec<u64>>;

/// How the instants of two volumes compare.
#[derive(Debug, Default)]
pub(crate) struct TurnReport {
    /// Instants that are none: number, writer, and what is wrong.
    pub faults: Vec<(usize, u32, TurnFault)>,
    /// Instants, times writers, that were looked at.
    pub looked_at: usize,
    /// Of these, so many at which only the first volume had the writer's last round.
    pub(crate) between_turns: usize,
}

/// Compares two volumes at all instants of a series of both.
///
/// # Errors
/// When files cannot be read, or a witness cannot be trusted.
pub fn compare(
    files: [&CellFiles; 2],
    origins: [SectorRange; 2],
    instants: &[[MarkerKey; 2]],
    turns: &TurnsSpec,
) -> HarnessResult<TurnReport> {
    let at = |volume: usize| {
        let keys: Vec<MarkerKey> = instants.iter().map(|keys| keys[volume]).collect();
        rounds_at(files[volume], origins[volume], &keys, turns, volume)
    };
    let (first, second) = (at(0)?, at(1)?);
    let mut report = TurnReport::default();
    for (number, (first, second)) in first.iter().zip(&second).enumerate() {
        for (writer, (first, second)) in first.iter().zip(second).enumerate() {
            report.looked_at += 1;
            report.between_turns += usize::from(first.iter().max() > second.iter().max());
            let faults = check_turns(first, second).into_iter();
            report
                .faults
                .extend(faults.map(|fault| (number + 1, writer as u32, fault)));
        }
    }
    Ok(report)
}

/// What one volume held at each of these instants.
fn rounds_at(
    files: &CellFiles,
    origin: SectorRange,
    instants: &[MarkerKey],
    turns: &TurnsSpec,
    volume: usize,
) -> HarnessResult<Vec<Rounds>> {
    let (base, witness) = (map(&files.base())?, map(&files.witness())?);
    let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
    let mut all = Vec::new();
    for key in instants {
        let marker = find_marker(&log, key).map_err(|error| untrusted(&error))?;
        let truth = Truth::at(&base, &log, marker.entry, DISCARD_MODEL)
            .map_err(|error| untrusted(&error))?;
        let writers = 0..turns.writers;
        all.push(
            writers
                .map(|writer| rounds_of(&truth, origin, turns, volume, writer))
                .collect(),
        );
    }
    Ok(all)
}

fn rounds_of(
    truth: &Truth<'_>,
    origin: SectorRange,
    turns: &TurnsSpec,
    volume: usize,
    writer: u32,
) -> Vec<u64> {
    let sectors_per_block = (BLOCK_BYTES / SECTOR_BYTES) as u64;
    let round_in = |slot: u32| {
        let sector = turns.block(writer, u64::from(slot)) * sectors_per_block;
        let range = SectorRange::new(Sector(origin.start.0 + sector), 1);
        SectorIdentity::parse(&truth.read(range))
            .filter(|found| found.identity == TurnsSpec::identity(volume))
            .filter(|found| (found.writer, found.seed) == (writer, turns.seed))
            .map_or(0, |found| found.generation)
    };
    (0..turns.slots).map(round_in).collect()
}
