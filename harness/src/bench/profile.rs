//! Where the guest's CPUs are while a job runs: a profile taken from outside.
//!
//! The emulator is stopped for a moment and asked for the registers of its CPUs, some hundred times a
//! second. Under software emulation a CPU stops between two translated blocks, so a sample names a
//! function but not an instruction. Nothing runs in the guest for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cowbird_vm::qmp::Qmp;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Pause between two samples.
const PERIOD: Duration = Duration::from_millis(3);

/// A profile being taken.
pub struct Sampler {
    stop: oneshot::Sender<()>,
    task: JoinHandle<HashMap<u64, u64>>,
}

/// How often the CPUs were seen in each function, most first.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Profile {
    /// Samples of all CPUs.
    pub samples: u64,
    /// Function (with its module, if any) and samples.
    pub functions: Vec<(String, u64)>,
}

impl Sampler {
    /// Begins.
    #[must_use]
    pub fn start(qmp: Arc<Qmp>) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut seen = HashMap::new();
            while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                // A monitor that does not answer ends the profile, not the measurement.
                let Ok(registers) = qmp.monitor("info registers -a").await else {
                    break;
                };
                for address in instruction_pointers(&registers) {
                    *seen.entry(address).or_default() += 1;
                }
                sleep(PERIOD).await;
            }
            seen
        });
        Self { stop, task }
    }

    /// Ends, and gives each address seen with how often.
    pub async fn finish(self) -> HashMap<u64, u64> {
        // The task may have ended by itself.
        let _ = self.stop.send(());
        self.task.await.unwrap_or_default()
    }
}

impl Profile {
    /// Sums samples up by function; `names` are those of `addresses`.
    #[must_use]
    pub fn new(addresses: &[(u64, u64)], names: &[String]) -> Self {
        let mut by_name = HashMap::<&str, u64>::new();
        for ((_, count), name) in addresses.iter().zip(names) {
            *by_name.entry(name).or_default() += count;
        }
        let mut functions: Vec<(String, u64)> = by_name
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        functions.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        Self {
            samples: functions.iter().map(|(_, count)| count).sum(),
            functions,
        }
    }
}

/// The instruction pointers in what the monitor prints of the registers.
fn instruction_pointers(registers: &str) -> impl Iterator<Item = u64> {
    registers.split_whitespace().filter_map(|word| {
        let digits = word.strip_prefix("RIP=")?;
        u64::from_str_radix(digits, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_pointers_of_all_cpus() {
        let registers = "CPU#0\r\nRAX=00 RBX=01\r\nRIP=ffffffff81000010 RFL=00000246 [---Z-P-]\r\n\
                         CPU#1\r\nRIP=0000000000401000 RFL=0\r\n";
        let found: Vec<u64> = instruction_pointers(registers).collect();
        assert_eq!(found, [0xffff_ffff_8100_0010, 0x40_1000]);
    }

    #[test]
    fn samples_of_one_function_are_one_line() {
        let names = ["a", "b", "a"].map(str::to_owned);
        let profile = Profile::new(&[(1, 2), (2, 3), (3, 4)], &names);
        assert_eq!(profile.samples, 9);
        assert_eq!(
            profile.functions,
            [("a".to_owned(), 6), ("b".to_owned(), 3)]
        );
    }
}
