//! Whether a trace shows the module breaking its invariants, without any witness.
//!
//! Takes records in the order of the trace. What is checked, for each snapshot whose instant is in
//! the trace:
//!
//! 1. *Old before new:* a write to a block of the origin is not submitted before a read of that
//!    block, begun after `preserve_begin`, is complete.
//! 2. *Revalidate:* what a snapshot read returns of a whole block has the fingerprint that the
//!    block had at the instant. That is known of every block that was read whole from the origin
//!    after the instant and before its first write, as each block is before it is preserved.
//! 3. *A true cut:* no write to the origin is in flight when the module calls it drained, and none
//!    is submitted until the epoch has begun.
//! 6. *The change map:* a write to the origin is not submitted before its blocks are preserved or
//!    noted as changed.
//!
//! Not checked: reads that do not cover whole blocks; blocks of which nobody read the content at
//! the instant; content that went back to what it was; whether the preserved copy is read from
//! the right place of the COW file, unless a reader sees it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cowbird_events::devices::Snapshot;
use cowbird_events::event::{BlockIndex, IoId, Kind, Op, Record};

mod finding;
mod origin;

pub use finding::{Fault, Finding, MAX_FINDINGS, Verdict};

use origin::Origin;

const STEP_DRAINED: u32 = 2;
const STEP_BEGUN: u32 = 3;

/// Goes through a trace.
#[derive(Debug, Default)]
pub struct Verifier {
    origins: BTreeMap<u32, Origin>,
    /// What each bio or request in flight is, as far as its fingerprints need it.
    ios: HashMap<IoId, u64>,
    /// The last release of a held write by each thread: where it goes.
    released: HashMap<u32, (u64, u32)>,
    verdict: Verdict,
}

/// Operations that change what a device contains.
fn changes(op: Op) -> bool {
    matches!(
        op,
        Op::Write | Op::Discard | Op::SecureErase | Op::WriteSame | Op::WriteZeroes
    )
}

impl Verifier {
    /// A verifier for the snapshots that a trace knows.
    pub fn new<'a>(snapshots: impl IntoIterator<Item = &'a Snapshot>) -> Self {
        let mut verifier = Self::default();
        for snapshot in snapshots {
            match Origin::new(snapshot) {
                Some(origin) => {
                    verifier.origins.insert(snapshot.minor, origin);
                }
                None => verifier.verdict.unchecked.push(format!(
                    "snapshot {} of {} was gone before its devices could be looked up",
                    snapshot.minor, snapshot.block_device
                )),
            }
        }
        verifier
    }

    /// Takes the next record.
    pub fn take(&mut self, record: &Record) {
        match record.kind {
            Kind::BioQueue | Kind::RqIssue => {
                self.ios.insert(record.io, record.sequence);
                if changes(record.op) {
                    self.write(record);
                }
            }
            Kind::RqComplete | Kind::BioComplete => self.complete(record),
            Kind::Fingerprint => self.fingerprint(record),
            Kind::Release => {
                self.released
                    .insert(record.tid, (record.sector, record.amount));
            }
            _ => self.module_event(record),
        }
    }

    /// What was found.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        for (minor, origin) in &mut self.origins {
            origin.close(*minor, &mut self.verdict);
            if !origin.instant_seen() {
                self.verdict.unchecked.push(format!(
                    "snapshot {minor}: its instant is not in the trace; record before it is taken"
                ));
            }
        }
        self.verdict
    }

    fn write(&mut self, record: &Record) {
        // The module's own writes into the COW file come from its thread too, without a release.
        let by_engine = record.comm.starts_with(b"cowbird/");
        let released = record.kind == Kind::BioQueue
            && self.released.remove(&record.tid) == Some((record.sector, record.amount));
        for (minor, origin) in &mut self.origins {
            if Some(record.disk) != origin.disk() {
                continue;
            }
            match record.kind {
                Kind::RqIssue => origin.issued(record),
                _ if by_engine && !released => {}
                _ => origin.write(*minor, record, &mut self.verdict),
            }
        }
    }

    fn complete(&mut self, record: &Record) {
        let begun = self.ios.get(&record.io).copied();
        for origin in self.origins.values_mut() {
            if Some(record.disk) != origin.disk() {
                continue;
            }
            if changes(record.op) {
                origin.written(record);
            } else if let (Op::Read, 0, Some(begun)) = (record.op, record.status, begun) {
                origin.read(record, begun);
            }
        }
    }

    fn fingerprint(&mut self, record: &Record) {
        let begun = self.ios.get(&record.io).copied();
        for origin in self.origins.values_mut() {
            let (on_origin, on_snapshot) = (
                Some(record.disk) == origin.disk(),
                Some(record.disk) == origin.snapshot_disk(),
            );
            match record.op {
                Op::Write if on_origin => origin.new_content(record),
                Op::Read if on_origin => origin.old_content(record, begun),
                Op::Read if on_snapshot => origin.snapshot_content(record),
                _ => {}
            }
        }
    }

    fn module_event(&mut self, record: &Record) {
        let Some(minor) = record.minor() else { return };
        let Some(origin) = self.origins.get_mut(&minor) else {
            return;
        };
        match (record.kind, record.amount) {
            (Kind::PreserveBegin, _) => origin.preserving(record),
            (Kind::PreserveComplete | Kind::Change, _) => origin.noted(record),
            (Kind::Epoch, STEP_DRAINED) => origin.drained(minor, record, &mut self.verdict),
            (Kind::Epoch, STEP_BEGUN) => origin.begun(),
            (Kind::State, phase) => {
                origin.phase(minor, phase, record.sequence, &mut self.verdict);
            }
            _ => {}
        }
    }
}

/// Blocks of the origin that break an invariant, each once, by fault.
#[must_use]
pub fn blocks_by_fault(verdict: &Verdict) -> BTreeMap<Fault, BTreeSet<BlockIndex>> {
    let mut all: BTreeMap<Fault, BTreeSet<BlockIndex>> = BTreeMap::new();
    for finding in &verdict.findings {
        all.entry(finding.fault).or_default().insert(finding.block);
    }
    all
}

#[cfg(test)]
mod tests;
