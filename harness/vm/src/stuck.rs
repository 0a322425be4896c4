//! CPUs of the emulator that stand still at an instruction which the kernel has patched.
//!
//! QEMU before 8.1 can keep executing a breakpoint that the kernel has replaced meanwhile (see
//! [`cowbird_host::kernel_log::is_stale_breakpoint`]). A kernel with kprobes does not always die of it: its handler sees
//! that there is no breakpoint in memory and tries the instruction again, for ever. In an interrupt nothing can end
//! that. Seen with QEMU 7.2 at the entry of `bio_endio` of 5.10, on both CPUs.
//!
//! No loop of a real program stands on one call or no-operation with interrupts off whenever it is looked at.

/// The flag of RFLAGS that lets interrupts in.
const INTERRUPTS: u64 = 0x200;

/// What the entry of a function that can be traced begins with: a call, or a no-operation of five bytes.
const ENTRIES: [&[&str]; 2] = [&["0xe8"], &["0x0f", "0x1f", "0x44", "0x00", "0x00"]];

/// Where a CPU stands in all samples, with interrupts off. A sample is what the monitor prints of all CPUs.
pub fn addresses(samples: &[String]) -> Vec<u64> {
    let mut stuck = samples.first().map(|first| cpus(first)).unwrap_or_default();
    for sample in samples {
        let now = cpus(sample);
        for (cpu, place) in stuck.iter_mut().enumerate() {
            if now.get(cpu) != Some(place) {
                *place = None;
            }
        }
    }
    let mut found: Vec<u64> = stuck.into_iter().flatten().collect();
    found.dedup();
    found
}

/// The instruction pointer of each CPU in the kernel that has interrupts off.
fn cpus(registers: &str) -> Vec<Option<u64>> {
    let lines = registers.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix("RIP="))
        .map(|line| {
            let mut words = line.split_whitespace();
            let pointer = u64::from_str_radix(words.next()?, 16).ok()?;
            let flags = words.next()?.strip_prefix("RFL=")?;
            let flags = u64::from_str_radix(flags, 16).ok()?;
            let in_kernel = words.any(|word| word == "CPL=0");
            (in_kernel && flags & INTERRUPTS == 0).then_some(pointer)
        })
        .collect()
}

/// Whether five bytes, as the monitor prints them after their address, are the entry of a function.
pub(super) fn is_patched_entry(dump: &str) -> bool {
    let bytes: Vec<&str> = dump
        .split_once(':')
        .map(|(_, bytes)| bytes.split_whitespace().collect())
        .unwrap_or_default();
    bytes.len() == 5 && ENTRIES.iter().any(|entry| bytes.starts_with(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u64; 0] = [];

    fn sample(first: &str, second: &str) -> String {
        format!(
            "CPU#0\r\nRAX=0 RBX=0\r\nRIP={first} [---Z-P-] CPL=0 II=0 A20=1\r\n\
             CPU#1\r\nRIP={second} [---Z-P-] CPL=0 II=0 A20=1\r\n"
        )
    }

    /// Goal: only a CPU that is at one place with interrupts off in every sample stands still. Method: what the
    /// monitor printed when it happened, and changes of it.
    #[test]
    fn a_cpu_that_moves_or_can_be_interrupted_does_not_stand_still() {
        let here = "ffffffff8148c7a0 RFL=00000046";
        let stuck = sample(here, here);
        let moves = sample(here, "ffffffff8148c7a5 RFL=00000046");
        let open = sample(
            "ffffffff8148c7a0 RFL=00000246",
            "ffffffff8148c7a0 RFL=00000246",
        );
        let all = |samples: &[&String]| {
            addresses(&samples.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(all(&[&stuck, &stuck]), [0xffff_ffff_8148_c7a0]);
        assert_eq!(all(&[&stuck, &moves]), [0xffff_ffff_8148_c7a0]);
        assert_eq!(all(&[&moves, &sample("0 RFL=0", "1 RFL=0")]), NONE);
        assert_eq!(all(&[&open, &open]), NONE);
        assert_eq!(all(&[&stuck, &String::new()]), NONE);
        assert_eq!(all(&[&stuck.replace("CPL=0", "CPL=3")]), NONE);
        assert_eq!(addresses(&[]), NONE);
    }

    /// Goal: a breakpoint that is really there, and a loop, are no patched entries.
    #[test]
    fn only_calls_and_long_no_operations_are_entries() {
        let is = |bytes: &str| is_patched_entry(&format!("ffffffff8148c7a0: {bytes}\r\n"));
        assert!(is("0xe8 0x2b 0xf4 0xbc 0xff"));
        assert!(is("0x0f 0x1f 0x44 0x00 0x00"));
        assert!(!is("0xcc 0x2b 0xf4 0xbc 0xff"));
        assert!(!is("0xf3 0x90 0xeb 0xfc 0x90"));
        assert!(!is("0xe8"));
        assert!(!is_patched_entry("Cannot access memory"));
    }
}
