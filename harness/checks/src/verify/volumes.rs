//! Several volumes: each by itself, then whether their images are of common instants.

use cowbird_host::error::HarnessResult;
use cowbird_host::files::CellFiles;

use super::VolumesEvidence;
use crate::judgement::Judgement;
use crate::turns;

/// Rounds in the wrong images that the text of a report lists.
const LISTED_TURNS: usize = 20;

impl Judgement {
    pub(crate) fn take_volume(&mut self, name: &str, volume: Self) {
        let named = |text: &String| format!("{name}: {text}");
        self.blocks_checked += volume.blocks_checked;
        self.blocks_bad += volume.blocks_bad;
        self.name_bad(&volume.bad);
        for (class, count) in volume.classes {
            *self.classes.entry(class).or_default() += count;
        }
        self.faults.extend(volume.faults.iter().map(named));
        self.notes.extend(volume.notes.iter().map(named));
        self.text += &format!("{name}:\n{}", volume.text);
    }

    /// Whether the images of both volumes are of the same instants.
    pub(super) fn take_turns(
        &mut self,
        files: [&CellFiles; 2],
        evidence: &VolumesEvidence,
    ) -> HarnessResult<()> {
        let [first, second] = &evidence.volumes;
        let origins = [first.origin, second.origin];
        let report = turns::compare(files, origins, &evidence.instants, &evidence.turns)?;
        self.notes.push(format!(
            "{} instants of {} writers: {} of {} between the two writes of a round",
            evidence.instants.len(),
            evidence.turns.writers,
            report.between_turns,
            report.looked_at
        ));
        for (instant, writer, fault) in report.faults.iter().take(LISTED_TURNS) {
            self.text += &format!("instant {instant}, writer {writer}: {fault}\n");
        }
        if let Some((instant, writer, fault)) = report.faults.first() {
            self.fault(format!(
                "no common instant in {} places, as {instant} of writer {writer}: {fault}",
                report.faults.len()
            ));
        }
        Ok(())
    }
}
