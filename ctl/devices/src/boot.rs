//! The boot that the machine is in.

use std::fs;

use anyhow::{Context, Result};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Identity of this boot.
pub fn id() -> Result<[u8; 16]> {
    let text = fs::read_to_string(BOOT_ID)
        .with_context(|| format!("cannot read {BOOT_ID}; is /proc mounted?"))?;
    parse(&text).with_context(|| format!("{BOOT_ID} is no UUID: {text:?}"))
}

fn parse(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_ids_are_read_as_the_kernel_writes_them() {
        let read = parse("0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa\n").unwrap();
        assert_eq!(read[..4], [0x0b, 0x1c, 0x2d, 0x3e]);
        assert_eq!(read[15], 0xfa);
        assert!(parse("0b1c2d3e").is_none());
        assert!(id().is_ok());
    }
}
