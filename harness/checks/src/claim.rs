//! What a case claims at its end. Each claim is judged in the file that defines it; a new one is a file, and a line here.

use cowbird_host::error::HarnessResult;

use crate::exhibits::Exhibits;
use crate::image::ImageClaim;
use crate::judgement::{ExpectedLog, Judgement};
use crate::lockstep_writers::CommonInstants;
use crate::power_cuts::EarlierPowerCuts;
use crate::script_runs::{self, ScriptRunEvidence};
use crate::soak::SoakEvidence;
use crate::{journal_check, replay_check};

/// Something that must be true at the end of a case.
#[derive(Debug, Clone)]
pub enum Claim {
    /// The image on the second disk is that of an instant of the first.
    Image(ImageClaim),
    /// The images of two volumes are of common instants.
    CommonInstants(Box<CommonInstants>),
    /// Whenever the power had been cut in an earlier boot, no change would have been missed.
    PowerCuts(EarlierPowerCuts),
    /// Many images and change maps of several volumes are right.
    Soak(SoakEvidence),
    /// Scripts ran, each on snapshots of its own, and all of these are right.
    ScriptRuns(Vec<ScriptRunEvidence>),
    /// The first partition ends with what the recorded workload wrote to it, in its order.
    OriginHoldsReplay,
    /// The first partition ends with what the raw writers' journal says.
    OriginHoldsJournal,
}

impl Claim {
    /// Looks whether it is true, and adds what is wrong to the judgement.
    ///
    /// # Errors
    /// Only what makes a judgement impossible: unreadable files, missing tools, an untrustworthy witness, a claim of
    /// disks that the cell does not have.
    pub fn check(&self, exhibits: &Exhibits<'_>, judgement: &mut Judgement) -> HarnessResult<()> {
        match self {
            Self::Image(image) => {
                image.check(&exhibits.first, exhibits.said.observations, judgement)
            }
            Self::CommonInstants(instants) => instants.check(exhibits, judgement),
            Self::PowerCuts(cuts) => cuts.check(&exhibits.first.files, judgement),
            Self::Soak(soak) => soak.check(exhibits, judgement),
            Self::ScriptRuns(script_runs) => {
                script_runs::check(script_runs, &exhibits.first, judgement)
            }
            Self::OriginHoldsReplay => replay_check::check(exhibits, judgement),
            Self::OriginHoldsJournal => journal_check::check(exhibits, judgement),
        }
    }
}

/// What a case leaves to be judged. One without any claim is judged only if the case means that, as [`Evidence::witness_only`] does.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What must be true, in the order in which it is looked at.
    pub claims: Vec<Claim>,
    /// What the module may say in the kernel log although it is a warning.
    pub expected_log: ExpectedLog,
    /// Whether the case means to claim nothing.
    pub unclaimed: bool,
}

impl Evidence {
    /// No claim: only the witnesses themselves are on trial.
    #[must_use]
    pub fn witness_only() -> Self {
        Self {
            unclaimed: true,
            ..Self::default()
        }
    }

    /// The snapshot failed as it had to, which the case has seen itself, so that there is no image to judge. These warnings may be in the
    /// kernel log; whether they are is not looked at.
    #[must_use]
    pub fn failed_snapshot(expected_log: ExpectedLog) -> Self {
        Self::witness_only().expecting(expected_log)
    }

    /// One claim.
    #[must_use]
    pub fn of(claim: Claim) -> Self {
        Self::default().and(claim)
    }

    /// A claim more.
    #[must_use]
    pub fn and(mut self, claim: Claim) -> Self {
        self.claims.push(claim);
        self
    }

    /// Claims more, where there is something to claim.
    #[must_use]
    pub fn and_all(mut self, claims: impl IntoIterator<Item = Claim>) -> Self {
        self.claims.extend(claims);
        self
    }

    /// What the module may say in the kernel log.
    #[must_use]
    pub fn expecting(self, expected_log: ExpectedLog) -> Self {
        Self {
            expected_log,
            ..self
        }
    }
}

impl From<ImageClaim> for Evidence {
    fn from(image: ImageClaim) -> Self {
        Self::of(Claim::Image(image))
    }
}
