//! Names of addresses, from the kernel's own table.

use std::fs;

use cowbird_guest_system::error::{Context, GuestResult};

const TABLE: &str = "/proc/kallsyms";

/// What an address below the kernel is called.
const USER_SPACE: &str = "[user space]";

/// The highest address of user space.
const USER_END: u64 = 1 << 63;

/// The function that each address is in, with its module, if it has one.
pub fn names(addresses: &[u64]) -> GuestResult<Vec<String>> {
    let table = fs::read_to_string(TABLE).context(format_args!("read {TABLE}"))?;
    let mut symbols: Vec<(u64, &str)> = table.lines().filter_map(symbol).collect();
    symbols.sort_unstable();
    Ok(addresses
        .iter()
        .map(|address| name(&symbols, *address))
        .collect())
}

/// `address type name [module]`
fn symbol(line: &str) -> Option<(u64, &str)> {
    let (address, rest) = line.split_once(' ')?;
    let (_, name) = rest.split_once(' ')?;
    Some((u64::from_str_radix(address, 16).ok()?, name))
}

fn name(symbols: &[(u64, &str)], address: u64) -> String {
    if address < USER_END {
        return USER_SPACE.to_owned();
    }
    let after = symbols.partition_point(|(start, _)| *start <= address);
    match after.checked_sub(1).and_then(|at| symbols.get(at)) {
        Some((_, name)) => name.replace('\t', " "),
        None => format!("{address:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_the_symbol_before_it() {
        let table = "ffffffff81000000 T _text\nffffffff81000100 t helper\t[cowbird]";
        let symbols: Vec<_> = table.lines().filter_map(symbol).collect();
        assert_eq!(name(&symbols, 0xffff_ffff_8100_00ff), "_text");
        assert_eq!(name(&symbols, 0xffff_ffff_8100_0100), "helper [cowbird]");
        assert_eq!(name(&symbols, 0xffff_ffff_8000_0000), "0xffffffff80000000");
        assert_eq!(name(&symbols, 0x1000), USER_SPACE);
    }
}
