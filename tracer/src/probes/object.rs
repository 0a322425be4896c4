//! The BPF object: what it is to record, and how it is loaded for that.

use aya::{Btf, Ebpf, EbpfLoader};
use cowbird_events::decoder::RAW_EVENT_BYTES;
use cowbird_events::devices::BlockDevice;
use cowbird_events::kernel::KernelFacts;
use cowbird_events::prints::PrintKey;

use super::chances::{Chances, LAST_CHANCE};
use super::error::ProbeError;
use super::options::ProbeOptions;

/// The programs, compiled by the build script.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cowbird_trace.bpf.o"));

/// Places for marks: `MARK_KINDS` times `MARK_THREADS` in `bpf/marks.h`.
const MARK_PLACES: u32 = 32 * 8192;

/// Buffers for content: three programs with four chances each; `enum gatherer` in `bpf/prints.h`.
const GATHERINGS: u32 = 3 * (LAST_CHANCE + 1);

/// Events of a CPU between two wake-ups of the reader, at most.
const MAX_WAKE_EVENTS: u64 = 4096;

/// How many events of one CPU come between two wake-ups, less one: half of the ring buffer would be
/// in use if all CPUs were about to wake the reader.
fn wake_mask(ring_bytes: u32, cpus: u64) -> u64 {
    let events = u64::from(ring_bytes) / (2 * RAW_EVENT_BYTES as u64 * cpus.max(1));
    let events = events.clamp(1, MAX_WAKE_EVENTS);
    (events + 1).next_power_of_two() / 2 - 1
}

pub(super) fn load_object(
    options: &ProbeOptions,
    facts: &KernelFacts,
    btf: &Btf,
) -> Result<Ebpf, ProbeError> {
    let device = options.device.as_ref();
    let disk = device.and_then(BlockDevice::disk).map_or(0, |disk| disk.0);
    let (first, end) = device.map_or((0, u64::MAX), |device| {
        let (first, end) = device.range();
        (first.0, end.0)
    });
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u64);
    let wake = wake_mask(options.ring_bytes, cpus);
    let rate = options.rate_limit.map_or(0, |rate| rate.div_ceil(cpus));
    let chances = Chances::of(options, facts);
    let rescue = u32::from(chances == Chances::All);
    let nested = u32::from(chances == Chances::Two);
    let fingerprints = u32::from(options.fingerprints);
    let grid = options.grid_sectors();
    let sealed = u32::from(options.print_key.is_some());
    let [key_low, key_high] = options.print_key.as_ref().map_or([0; 2], PrintKey::halves);
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .override_global("filter_disk", &disk, true)
        .override_global("filter_first_sector", &first, true)
        .override_global("filter_end_sector", &end, true)
        .override_global("rescue", &rescue, true)
        .override_global("nested", &nested, true)
        .override_global("fingerprints", &fingerprints, true)
        .override_global("wake_mask", &wake, true)
        .override_global("cpu_rate", &rate, true)
        .override_global("grid_sectors", &grid, true)
        .override_global("sealed", &sealed, true)
        .override_global("key_low", &key_low, true)
        .override_global("key_high", &key_high, true)
        .map_max_entries("events", options.ring_bytes);
    if chances == Chances::All {
        loader.map_max_entries("marks", MARK_PLACES);
    }
    if fingerprints != 0 {
        loader.map_max_entries("gatherings", GATHERINGS);
    }
    loader
        .load(OBJECT)
        .map_err(|error| ProbeError::Object(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_is_woken_before_the_ring_buffer_is_full() {
        assert_eq!(wake_mask(8 << 20, 2), 4095);
        assert_eq!(wake_mask(8 << 20, 64), 511);
        assert_eq!(wake_mask(4096, 2), 7);
        assert_eq!(wake_mask(4096, 256), 0);
    }
}
