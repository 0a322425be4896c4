//! What a case claims: its image, and what else must be true at its end.

use std::collections::BTreeSet;

use cowbird_model::{BlockSet, MarkerKey, SectorRange};
use cowbird_proto::message::{GoldenFile, TurnsSpec};

use crate::change_map::ChangeMap;
use crate::judgement::ExpectedLog;
use crate::power_cuts::PowerCuts;
use crate::restored::Restored;
use crate::soak::SoakEvidence;
use crate::trials::TrialEvidence;

/// What a case leaves to be judged.
#[derive(Debug, Clone)]
pub enum Evidence {
    /// An image of a snapshot.
    Snapshot(SnapshotEvidence),
    /// Images of two volumes at one instant.
    Volumes(Box<VolumesEvidence>),
    /// No snapshot was taken: only the witness itself is on trial.
    WitnessOnly,
    /// A series whose machine lost its power.
    PowerCuts {
        /// What is tried on the witness of a boot before the last one.
        cuts: PowerCuts,
        /// Which boot.
        boot: u32,
        /// What the last boot left.
        then: Box<Evidence>,
    },
    /// Many images and change maps of several volumes.
    Soak(Box<SoakEvidence>),
    /// Scripts, each on snapshots of its own.
    Trials(Vec<TrialEvidence>),
    /// The snapshot failed as it had to, and the module said so in the kernel log, with one of these
    /// texts.
    FailedSnapshot(ExpectedLog),
}

/// An image of a snapshot, and what it must be.
#[derive(Debug, Clone)]
pub struct SnapshotEvidence {
    /// Identifies the snapshot instant in the witness.
    pub marker: MarkerKey,
    /// The origin on the first disk.
    pub origin: SectorRange,
    /// Blocks of the COW file on the origin.
    pub zeroed: BlockSet,
    /// Whether the image is an ext4 that must be without errors.
    pub filesystem: bool,
    /// Files that the image must contain.
    pub golden: Vec<GoldenFile>,
    /// Snapshot reads that differed from an earlier read of the same block. The guest sends the
    /// content of the first of them only.
    pub differing_reads: u64,
    /// The change maps of the series.
    pub maps: Vec<ChangeMap>,
    /// Whether what lies on the disk is the origin's content encrypted.
    pub encrypted: bool,
    /// Sectors of the device whose epoch marks the instant, where that is not the origin as it lies on the disk: what the
    /// origin was spread over for the module, or another device of which a snapshot was taken at a time without writes.
    pub marker_sectors: Option<u64>,
    /// Whether a second disk must end with the same content at the origin's place.
    pub mirrored: bool,
    /// What the module may say in the kernel log although it is a warning.
    pub expected_log: ExpectedLog,
    /// Blocks of the origin that the tracer calls wrong, if it was asked.
    pub traced: Option<BTreeSet<u64>>,
    /// Whether a recorded workload was replayed to its end, so that it is known what the origin ends with.
    pub replayed: bool,
    /// Whether raw writers wrote to the origin and were stopped, so that the journal says what it ends with.
    pub written: bool,
    /// What became of the origin when the image was copied back to it, if it was.
    pub restored: Option<Restored>,
}

/// Images of two volumes, whose snapshots were all taken at common instants.
#[derive(Debug, Clone)]
pub struct VolumesEvidence {
    /// The images of the last instant; the second one's files are [`cowbird_host::files::CellFiles::second`].
    pub volumes: [SnapshotEvidence; 2],
    /// All instants, by volume.
    pub instants: Vec<[MarkerKey; 2]>,
    /// Who wrote to both volumes in turns.
    pub turns: TurnsSpec,
}

impl SnapshotEvidence {
    /// An image of a raw origin that lies on the disk as it is.
    #[must_use]
    pub fn new(marker: MarkerKey, origin: SectorRange) -> Self {
        Self {
            marker,
            origin,
            zeroed: BlockSet::new(),
            filesystem: false,
            golden: Vec::new(),
            differing_reads: 0,
            maps: Vec::new(),
            encrypted: false,
            marker_sectors: None,
            mirrored: false,
            expected_log: &[],
            written: false,
            traced: None,
            replayed: false,
            restored: None,
        }
    }
}
