//! A device with pieces that fail, or take their time. The targets that device-mapper has everywhere do
//! it: `delay` reads and writes on two devices, of which one can be a device on which everything fails. `flakey` drops writes.

use cowbird_guest_system::error::{GuestResult, failure};
use cowbird_proto::message::{FaultTarget, InjectedFault};

use super::dm::{self, Target};

/// The device.
const FAULTY: &str = "faulty";

/// As large, and everything on it fails.
const NOWHERE: &str = "nowhere";

/// How long a device drops what is written, s: longer than any case.
const ALWAYS_S: u32 = 86_400;

/// Puts a device without faults on another one; gives its path.
pub fn stack(device: &str) -> GuestResult<String> {
    let nowhere = Target {
        start: 0,
        sectors: dm::sectors_of(device)?,
        kind: "error",
        parameters: String::new(),
    };
    dm::create(NOWHERE, &[nowhere])?;
    dm::create(FAULTY, &table(&Below::of(device)?, None, &[])?)
}

/// Gives it other faults.
pub fn inject_faults(
    device: &str,
    sectors: Option<u64>,
    pieces: &[FaultTarget],
) -> GuestResult<()> {
    dm::load(FAULTY, &table(&Below::of(device)?, sectors, pieces)?)
}

/// Takes it off.
pub fn unstack() -> GuestResult<()> {
    dm::remove(FAULTY).and_then(|()| dm::remove(NOWHERE))
}

/// What a table needs to know of the devices below.
struct Below {
    /// `major:minor` of the device.
    number: String,
    /// `major:minor` of that on which everything fails.
    nowhere: String,
    sectors: u64,
}

impl Below {
    fn of(device: &str) -> GuestResult<Self> {
        Ok(Self {
            number: dm::number(device)?,
            nowhere: dm::number_of(NOWHERE)?,
            sectors: dm::sectors_of(device)?,
        })
    }

    fn through(&self, start: u64, end: u64) -> Target {
        Target {
            start,
            sectors: end - start,
            kind: "linear",
            parameters: format!("{} {start}", self.number),
        }
    }

    /// Three devices, offsets and delays: for reads, for writes, for flushes.
    fn faulty(&self, start: u64, end: u64, fault: InjectedFault) -> Target {
        let (number, nowhere) = (&self.number, &self.nowhere);
        let target = |kind, parameters| Target {
            start,
            sectors: end - start,
            kind,
            parameters,
        };
        let (reads, writes) = match fault {
            InjectedFault::FailReads => (
                format!("{nowhere} {start} 0"),
                format!("{number} {start} 0"),
            ),
            InjectedFault::FailWrites => (
                format!("{number} {start} 0"),
                format!("{nowhere} {start} 0"),
            ),
            InjectedFault::DropWrites => {
                let parameters = format!("{number} {start} 0 {ALWAYS_S} 1 drop_writes");
                return target("flakey", parameters);
            }
            InjectedFault::Delay {
                reads_ms,
                writes_ms,
            } => (
                format!("{number} {start} {reads_ms}"),
                format!("{number} {start} {writes_ms}"),
            ),
        };
        target("delay", format!("{reads} {writes} {number} {start} 0"))
    }
}

/// The whole device: its pieces, and what is between them.
fn table(below: &Below, sectors: Option<u64>, pieces: &[FaultTarget]) -> GuestResult<Vec<Target>> {
    let size = sectors.unwrap_or(below.sectors).min(below.sectors);
    let mut targets = Vec::new();
    let mut at = 0;
    for piece in pieces {
        if piece.start < at {
            return Err(failure("the fault targets are not in order"));
        }
        let (start, end) = (
            piece.start.min(size),
            piece.start.saturating_add(piece.sectors).min(size),
        );
        if start > at {
            targets.push(below.through(at, start));
        }
        if end > start {
            targets.push(below.faulty(start, end, piece.fault));
        }
        at = at.max(end);
    }
    if size > at {
        targets.push(below.through(at, size));
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a table covers the device once, whatever the pieces are. Method: pieces at both ends, side by
    /// side, and behind the end.
    #[test]
    fn a_table_has_no_gap() {
        let below = Below {
            number: "254:1".to_owned(),
            nowhere: "253:0".to_owned(),
            sectors: 1000,
        };
        let piece = |start, sectors, fault| FaultTarget {
            start,
            sectors,
            fault,
        };
        let slow = InjectedFault::Delay {
            reads_ms: 4,
            writes_ms: 8,
        };
        let pieces = [
            piece(0, 8, InjectedFault::FailReads),
            piece(8, 8, InjectedFault::FailWrites),
            piece(500, u64::MAX, slow),
        ];
        let table = |sectors, pieces: &[FaultTarget]| {
            let targets = table(&below, sectors, pieces).unwrap();
            let mut at = 0;
            for target in &targets {
                assert_eq!(target.start, at, "{targets:?}");
                at += target.sectors;
            }
            assert_eq!(at, sectors.unwrap_or(1000), "{targets:?}");
            targets
                .into_iter()
                .map(|target| format!("{} {}", target.kind, target.parameters))
                .collect::<Vec<_>>()
        };
        assert_eq!(table(None, &[]), ["linear 254:1 0"]);
        assert_eq!(
            table(None, &pieces),
            [
                "delay 253:0 0 0 254:1 0 0 254:1 0 0",
                "delay 254:1 8 0 253:0 8 0 254:1 8 0",
                "linear 254:1 16",
                "delay 254:1 500 4 254:1 500 8 254:1 500 0",
            ]
        );
        assert_eq!(table(Some(200), &pieces).len(), 3);
        let unordered = [pieces[2], pieces[0]];
        assert!(super::table(&below, None, &unordered).is_err());
    }
}
