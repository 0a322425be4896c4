//! What the tools read: labels, records, change maps, the module's report; and what packages contain.

use std::time::Duration;

use cowbird_checks::change_map;
use cowbird_ctl::parsers as ctl;
use cowbird_model::BlockIndex;
use cowbird_packages::parsers;

use crate::target::{Kind, LIMIT_BYTES, MAX_BYTES, Target, put_crc, repairs_nothing, same};

pub(super) const LABEL: Target = Target {
    name: "label",
    reads: "the label of an image (ctl)",
    seeds: label_seeds,
    words: &[
        b"\"format\":",
        b"\"uuid\":",
        b"\"epoch\":",
        b"\"bytes\":",
        b"\"complete\":",
        b"true",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_label,
};

pub(super) const SERIES: Target = Target {
    name: "series",
    reads: "the record of a series in /etc/cowbird (ctl)",
    seeds: series_seeds,
    words: &[
        b"\"series\":",
        b"\"minor\":",
        b"\"format\":",
        b"\\\\134",
        b"\\u0000",
        b"\\\\303\\\\200",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_series,
};

pub(super) const CHANGE_MAP: Target = Target {
    name: "change-map",
    reads: "a change map, by the tool and by the harness (ctl, harness)",
    seeds: change_map_seeds,
    words: &[b"COWBMAP\x01"],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repair_change_map,
    check: check_change_map,
};

pub(super) const INFO: Target = Target {
    name: "info",
    reads: "/proc/cowbird-info (ctl)",
    seeds: info_seeds,
    words: &[
        b"\"devices\":",
        b"\"minor\":",
        b"\"error\":",
        b"\\\\012",
        b"\"mutant\":",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_info,
};

pub(super) const MOUNTS: Target = Target {
    name: "mounts",
    reads: "/proc/self/mountinfo (ctl)",
    seeds: mounts_seeds,
    words: &[b" - ", b"\\040", b"\\777", b"98:0", b"\n"],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_mounts,
};

pub(super) const PACKAGES: Target = Target {
    name: "packages",
    reads: "an archive's package index, and versions (images)",
    seeds: packages_seeds,
    words: &[
        b"Package: linux-",
        b"\nDepends: ",
        b" (>= 1~)",
        b" | ",
        b"\nSize: ",
        b"\n\n",
        b":any",
        b"1:0-0~",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_packages,
};

pub(super) const RELEASE: Target = Target {
    name: "release",
    reads: "an archive's Release file (images)",
    seeds: release_seeds,
    words: &[
        b"\nSuite: ",
        b"\nCodename: ",
        b"\nValid-Until: ",
        b" UTC",
        b"bookworm",
        b"\n-----BEGIN PGP SIGNATURE",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_release,
};

pub(super) const MODULE: Target = Target {
    name: "module",
    reads: "a kernel module's ELF file and its .modinfo (images)",
    seeds: module_seeds,
    words: &[
        b"\x7FELF",
        b".modinfo\0",
        b"softdep=pre: ",
        b"depends=",
        b"alias=",
        b"vermagic=",
    ],
    max_bytes: 1 << 10,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_module,
};

// ---- the control tool ----

fn label_seeds() -> Vec<Vec<u8>> {
    let uuid = "0123456789abcdef0123456789abcdef";
    vec![
        format!(r#"{{"format":1,"uuid":"{uuid}","epoch":3,"bytes":1048576,"complete":true}}"#)
            .into(),
        format!(r#"{{"format":1,"uuid":"{uuid}","epoch":0,"bytes":512,"complete":false}}"#).into(),
    ]
}

/// What is parsed and written again is parsed to the same.
fn written_again(input: &[u8], parse: fn(&[u8]) -> anyhow::Result<bool>) -> Result<Kind, String> {
    match parse(input) {
        Ok(true) => Ok(Kind::accepted(&[input.len() as u64])),
        Ok(false) => Err("written again, it is something else".to_owned()),
        Err(error) => Ok(Kind::refused(error)),
    }
}

fn check_label(input: &[u8]) -> Result<Kind, String> {
    written_again(input, ctl::label)
}

fn series_seeds() -> Vec<Vec<u8>> {
    let text = r#"{
  "series": "0123456789abcdef0123456789abcdef",
  "minor": 4,
  "origin": "/dev/disk/by-partuuid/x",
  "cow_device": "/dev/mapper/a\\040b",
  "cow_sector": 2048,
  "cow_file": "/srv/\\303\\200/cow\\134",
  "cache_mb": 300
}
"#;
    vec![text.into()]
}

fn check_series(input: &[u8]) -> Result<Kind, String> {
    written_again(input, ctl::series)
}

fn change_map_seeds() -> Vec<Vec<u8>> {
    let map = |blocks: u64, words: &[u64]| {
        let mut map = b"COWBMAP\x01".to_vec();
        map.extend_from_slice(&[7; 16]);
        for number in [3, 4, blocks].iter().chain(words) {
            map.extend_from_slice(&number.to_le_bytes());
        }
        map.extend_from_slice(&[0; 4]);
        repair_change_map(&mut map);
        map
    };
    vec![
        map(70, &[0x8000_0000_0000_0001, 33]),
        map(0, &[]),
        map(128, &[0, 0]),
    ]
}

fn repair_change_map(input: &mut [u8]) {
    if let Some(at) = input.len().checked_sub(4) {
        put_crc(input, 0..at, at);
    }
}

fn check_change_map(input: &[u8]) -> Result<Kind, String> {
    let other = change_map::ChangeMap::decode(input);
    let map = match ctl::change_map(input) {
        Ok(map) => map,
        Err(error) if other.is_some() => {
            return Err(format!(
                "the harness takes what the tool refuses: {error:#}"
            ));
        }
        Err(error) => return Ok(Kind::refused(error)),
    };
    let again = ctl::change_map(&map.written)
        .map_err(|error| format!("written again, it is refused: {error:#}"))?;
    same("written again", &again, &map)?;
    let in_ranges: u64 = map.ranges.iter().map(|(_, blocks)| blocks).sum();
    same("blocks of its ranges", &in_ranges, &map.changed)?;
    if map
        .ranges
        .iter()
        .any(|(first, blocks)| first + blocks > map.block_count)
    {
        return Err("a range ends behind the volume".to_owned());
    }
    let other = other.ok_or("the tool takes what the harness refuses")?;
    same("number of the harness", &other.blocks.len(), &map.changed)?;
    let mut blocks = map
        .ranges
        .iter()
        .flat_map(|(first, blocks)| *first..first + blocks);
    if let Some(block) = blocks.find(|block| !other.blocks.contains(BlockIndex(*block))) {
        return Err(format!(
            "block {block} changed for the tool, and not for the harness"
        ));
    }
    Ok(Kind::accepted(&[
        map.block_count,
        map.changed,
        map.ranges.len() as u64,
    ]))
}

fn info_seeds() -> Vec<Vec<u8>> {
    let device = r#"{"minor":0,"cow_file":"/srv/a\\040b","cow_inode":12,"block_device":"/dev/vdb1","seq_id":3,
"uuid":"0123456789abcdef0123456789abcdef","error":0,"error_text":"","origin_device":"254:17","cow_device":"254:32",
"cow_sector":4096,"cow_is_pinned":true,"tracks":true,"changes_from_epoch":2,"state_name":"active snapshot",
"origin_bytes":1048576,"size":256,"cow_bytes":4096,"cow_slots":99,"cow_slots_used":12,"expansions":0,
"preserved_blocks":4,"memory_blocks":1,"max_cache":1048576}"#;
    vec![
        format!(r#"{{"version":"0.1.0","mutant":null,"devices":[{device}]}}"#).into(),
        br#"{"version":"0.1.0","mutant":"a","devices":[{"minor":3},{}]}"#.to_vec(),
    ]
}

fn check_info(input: &[u8]) -> Result<Kind, String> {
    match ctl::report(input) {
        Ok((good, complaints)) => Ok(Kind(
            Kind::accepted(&[good as u64, complaints.len() as u64]).0
                ^ complaints.first().map_or(0, |first| Kind::of_text(first).0),
        )),
        Err(error) => Ok(Kind::refused(error)),
    }
}

fn mounts_seeds() -> Vec<Vec<u8>> {
    let text = "\
36 35 98:0 /mnt1 /mnt\\040a rw,noatime master:1 - ext3 /dev/root rw,errors=continue
22 1 0:21 / /proc rw - proc proc rw
";
    vec![text.into()]
}

fn check_mounts(input: &[u8]) -> Result<Kind, String> {
    match ctl::mounts(input) {
        Ok(mounts) => Ok(Kind::accepted(&[mounts as u64])),
        Err(error) => Ok(Kind::refused(error)),
    }
}

// ---- archives ----

fn packages_seeds() -> Vec<Vec<u8>> {
    let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let stanza = |name: &str, version: &str, more: &str| {
        format!(
            "Package: {name}\nVersion: {version}\nFilename: pool/x.deb\nSize: 12\nSHA256: {digest}\n\
             Description: text\n Package: not-a-field\n{more}\n"
        )
    };
    let text = [
        stanza(
            "linux-image-1",
            "1:6.1.10-1~bpo1",
            "Depends: kmod, linux-base (>= 4.3~) | x:any\n",
        ),
        stanza("bash", "5.2-1", ""),
        stanza(
            "linux-base",
            "4.9",
            "Pre-Depends: linux-image-1 (= 1:6.1.10-1~bpo1)\n",
        ),
    ];
    vec![text.concat().into()]
}

fn check_packages(input: &[u8]) -> Result<Kind, String> {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines();
    let [first, second, third] = [(); 3].map(|()| lines.next().unwrap_or_default());
    check_versions(first, second, third)?;
    match parsers::packages(&text, "linux-") {
        Ok((packages, satisfied)) => Ok(Kind::accepted(&[packages as u64, satisfied as u64])),
        Err(error) => Ok(Kind::refused(error)),
    }
}

/// Versions are in one order.
fn check_versions(first: &str, second: &str, third: &str) -> Result<(), String> {
    let order = parsers::versions(first, second);
    same(
        "the other way",
        &parsers::versions(second, first),
        &order.reverse(),
    )?;
    let next = parsers::versions(second, third);
    let across = parsers::versions(first, third);
    if (order.is_le() && next.is_le() && across.is_gt())
        || (order.is_ge() && next.is_ge() && across.is_lt())
    {
        return Err(format!(
            "three versions go round: {first:?} {second:?} {third:?}"
        ));
    }
    Ok(())
}

/// After 1970: in 2286.
const LATE: Duration = Duration::from_secs(10_000_000_000);

fn release_seeds() -> Vec<Vec<u8>> {
    let text = "\
Origin: Debian
Suite: stable
Codename: bookworm
Date: Sat, 08 Jun 2024 09:11:02 UTC
Valid-Until: Sat, 15 Jun 2024 09:11:02 UTC
SHA256:
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 12 main/Contents
-----BEGIN PGP SIGNATURE-----
";
    vec![text.into()]
}

fn check_release(input: &[u8]) -> Result<Kind, String> {
    let text = String::from_utf8_lossy(input);
    let (named, expired) = parsers::release(&text, "bookworm", LATE);
    let (_, early) = parsers::release(&text, "bookworm", Duration::ZERO);
    if early && !expired {
        return Err("it was over in 1970, and is not in 2286".to_owned());
    }
    Ok(match named {
        true => Kind::accepted(&[expired.into(), early.into()]),
        false => Kind::of_text(if expired {
            "another suite, over"
        } else {
            "another suite"
        }),
    })
}

/// An ELF file of 64 bits with `.modinfo` and the table of names.
fn module_seeds() -> Vec<Vec<u8>> {
    let modinfo =
        b"license=GPL\0\0\0softdep=pre: crc32c sha-256 post: late\0depends=a,b-c\0alias=fs-ext4\0\
        alias=pci:v00001AF4d*\0name=ext4\0vermagic=6.1.0 SMP mod_unload \0ext4.alias=x\0";
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut elf = b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\x3E\0\x01\0\0\0".to_vec();
    let table = 64 + (modinfo.len() + names.len()).next_multiple_of(8);
    for number in [0, 0, table as u64] {
        elf.extend_from_slice(&number.to_le_bytes());
    }
    elf.extend_from_slice(&[0; 4]);
    for number in [64_u16, 0, 0, 64, 3, 2] {
        elf.extend_from_slice(&number.to_le_bytes());
    }
    elf.extend_from_slice(modinfo);
    elf.extend_from_slice(names);
    elf.resize(table + 64, 0);
    let mut section = |name: u32, kind: u32, at: usize, length: usize| {
        elf.extend_from_slice(&name.to_le_bytes());
        elf.extend_from_slice(&kind.to_le_bytes());
        for number in [0, 0, at as u64, length as u64, 0, 1, 0] {
            elf.extend_from_slice(&number.to_le_bytes());
        }
    };
    section(1, 1, 64, modinfo.len());
    section(10, 3, 64 + modinfo.len(), names.len());
    vec![elf, modinfo.to_vec()]
}

fn check_module(input: &[u8]) -> Result<Kind, String> {
    let named = parsers::module_section(input) as u64;
    match parsers::module(input) {
        Ok(in_elf) => Ok(Kind::accepted(&[named, in_elf as u64])),
        Err(error) => Ok(Kind(Kind::of_text(&error).0 ^ named)),
    }
}
