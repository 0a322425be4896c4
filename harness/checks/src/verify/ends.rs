//! What the disks end with, beside the image: both halves of a mirror, what writers wrote, and power cuts that are tried
//! on a witness.

use cowbird_host::disk::Partition;
use cowbird_host::error::HarnessResult;
use cowbird_host::files::CellFiles;
use cowbird_model::{Class, SectorRange, WitnessLog, self_check};
use cowbird_proto::message::Event;
use memmap2::MmapMut;

use crate::exhibits::{DISCARD_MODEL, map, untrusted};
use crate::judgement::Judgement;
use crate::power_cuts::PowerCuts;
use crate::written;

impl Judgement {
    /// Both halves of a mirror end equal. The other half's own log must agree with its disk as well,
    /// or it could not say so.
    pub(super) fn check_mirror(
        &mut self,
        files: &CellFiles,
        base: &[u8],
        origin: &[u8],
        range: SectorRange,
    ) -> HarnessResult<()> {
        let (other, witness) = (map(&files.mirror())?, map(&files.mirror_witness())?);
        let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
        self_check(base, &log, &other, DISCARD_MODEL).map_err(|error| untrusted(&error))?;
        let (start, end) = (range.start.0 as usize * 512, range.end().0 as usize * 512);
        if origin.get(start..end) != other.get(start..end) {
            self.fault("the two halves of the mirror differ at the end".to_owned());
        }
        Ok(())
    }

    /// The origin must end with what the raw writers' journal says.
    pub fn check_written(
        &mut self,
        files: &CellFiles,
        origin: Partition,
        events: &[Event],
    ) -> HarnessResult<()> {
        let (before, after) = (map(&files.base())?, map(&files.origin())?);
        let start = usize::try_from(origin.offset_bytes()).unwrap_or(usize::MAX);
        let length = usize::try_from(origin.length_bytes()).unwrap_or(usize::MAX);
        let of = |disk: &'_ MmapMut| disk.get(start..start + length).map(<[u8]>::to_vec);
        let fault = match (of(&before), of(&after)) {
            (Some(before), Some(after)) => written::fault(events, &before, &after),
            _ => Some("the origin lies behind the end of its disk".to_owned()),
        };
        if let Some(fault) = fault {
            self.fault(fault);
        }
        Ok(())
    }

    pub(super) fn take_power_cuts(
        &mut self,
        files: &CellFiles,
        cuts: &PowerCuts,
        boot: u32,
    ) -> HarnessResult<()> {
        let base = map(&files.earlier_base(boot))?;
        let witness = map(&files.earlier_witness(boot))?;
        let log = WitnessLog::parse(&witness).map_err(|error| untrusted(&error))?;
        let report = cuts.judge(&base, &log)?;
        self.notes.push(format!(
            "{} power cuts, {} of them after the first epoch: {} changed blocks, {} named, {} missed",
            report.cuts, report.later_epochs, report.changed, report.named, report.missed
        ));
        self.blocks_checked += report.changed;
        if report.missed > 0 {
            self.blocks_bad += report.missed;
            *self.classes.entry(Class::MissedChange).or_default() += report.missed;
        }
        for fault in report.faults {
            self.fault(fault);
        }
        Ok(())
    }
}
