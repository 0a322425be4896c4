//! Goal: a clean save keeps checksums of what another system would change, and of nothing that is the module's own or a
//! boot loader's; and a list is believed only with the state that it belongs to.
//! Method: origins with made-up partition tables, and COW files made slot by slot.

use cowbird_core::cow_disk::{CowDisk, next_boot};
use cowbird_core::persist::{
    HEAD_BYTES, Kind, Mode, PAYLOAD, SLOT_BYTES, Sample, Status, choose_samples, encode_samples,
    sample_crc,
};

/// 1 GiB and three sectors.
const ORIGIN_SECTORS: u64 = (1 << 21) + 3;

fn nobody(_: u64, _: u32) -> bool {
    false
}

fn places(samples: &[Sample]) -> Vec<(u64, u32)> {
    samples.iter().map(|it| (it.sector, it.sectors)).collect()
}

const END: (u64, u32) = (ORIGIN_SECTORS - 128, 128);

#[test]
fn what_was_written_last_comes_first() {
    let none = u64::MAX;
    // The head is in the state; the last block is short, and in the end.
    let written = [700, none, 16, 700, 15, 0, ORIGIN_SECTORS / 8, 9000];
    let samples = choose_samples(ORIGIN_SECTORS, &written, &[], nobody);
    assert_eq!(
        places(&samples),
        [(5600, 8), (128, 8), (72_000, 8), END],
        "each once"
    );
    let own = |sector: u64, sectors: u32| sector < 130 && sector + u64::from(sectors) > 130;
    let samples = choose_samples(ORIGIN_SECTORS, &written, &[], own);
    assert_eq!(places(&samples), [(5600, 8), (72_000, 8), END]);
    assert!(choose_samples(100, &[3], &[], nobody).is_empty());
    let many: Vec<u64> = (100..300).collect();
    assert_eq!(choose_samples(1 << 21, &many[..64], &[], nobody).len(), 65);
}

fn gpt(unit: usize, partitions: &[u64]) -> Vec<u8> {
    let mut head = vec![0; HEAD_BYTES];
    head[unit..unit + 8].copy_from_slice(b"EFI PART");
    head[unit + 72] = 2;
    head[unit + 80] = 128;
    head[unit + 84] = 128;
    for (first, at) in partitions.iter().zip((2 * unit..).step_by(256)) {
        head[at] = 0xAF;
        head[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
    }
    head
}

#[test]
fn heads_of_partitions_are_looked_at() {
    let expected = [END, (2048, 128), (1 << 20, 128)];
    let partitions = [2048, 1 << 20, u64::MAX, 1 << 40];
    let samples = choose_samples(ORIGIN_SECTORS, &[], &gpt(512, &partitions), nobody);
    assert_eq!(places(&samples), expected);
    let partitions = [256, 1 << 17];
    let samples = choose_samples(ORIGIN_SECTORS, &[], &gpt(4096, &partitions), nobody);
    assert_eq!(places(&samples), expected);

    let mut mbr = vec![0; HEAD_BYTES];
    mbr[510..512].copy_from_slice(&[0x55, 0xAA]);
    for (first, at) in [2048u32, 1 << 20].iter().zip((446..).step_by(32)) {
        mbr[at + 4] = 0x83;
        mbr[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
    }
    let samples = choose_samples(ORIGIN_SECTORS, &[], &mbr, nobody);
    assert_eq!(places(&samples), expected);
}

/// Goal: no table makes the core read or name what is not there. Method: fields at their limits.
#[test]
fn tables_that_make_no_sense_do_no_harm() {
    for at in 72..88 {
        for byte in [0x7F, 0x80, 0xFF] {
            let mut head = gpt(512, &[2048]);
            head[512 + at] = byte;
            for bytes in [HEAD_BYTES, 8192, 1024, 1023, 512, 511, 0] {
                for sample in choose_samples(ORIGIN_SECTORS, &[], &head[..bytes], nobody) {
                    assert!(sample.sector + u64::from(sample.sectors) <= ORIGIN_SECTORS);
                }
            }
        }
    }
    let full: Vec<u64> = (0..64).map(|partition| 4096 * (partition + 1)).collect();
    let mut head = gpt(512, &[]);
    for (first, at) in full.iter().zip((1024..).step_by(128)) {
        head[at] = 1;
        head[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
    }
    let samples = choose_samples(ORIGIN_SECTORS, &[], &head, nobody);
    assert_eq!(samples.len(), 17);
}

#[test]
fn what_grub_writes_in_place_does_not_count() {
    let mut block = [0xA5; SLOT_BYTES];
    let usual = sample_crc(&block);
    assert_eq!(usual, crc32c::crc32c(&block));
    block[1024..1049].copy_from_slice(b"# GRUB Environment Block\n");
    let empty = sample_crc(&block);
    assert_ne!(usual, empty);
    block[1049..1060].copy_from_slice(b"recordfail=");
    assert_eq!(sample_crc(&block), empty);
    for other in [0, 1023, 1024, 2048, 4095] {
        let mut changed = block;
        changed[other] ^= 1;
        assert_ne!(sample_crc(&changed), empty, "byte {other}");
    }
}

#[test]
fn samples_belong_to_their_state() {
    let sample = Sample {
        sector: 136,
        sectors: 8,
        crc: 7,
    };
    let mut disk = CowDisk::new(0, 8000, &[(8192, 40)]);
    disk.put(Kind::Index, 0, 1, 4, &mut [0; SLOT_BYTES]);
    disk.state(4, 1, Status::Clean, Mode::Snapshot);
    disk.samples(4, 1, &[sample]);
    let series = disk.reload(&next_boot()).unwrap();
    assert_eq!(series.samples, [sample]);
    assert!(series.changed_sample(|_| 7).is_none());
    assert_eq!(series.changed_sample(|_| 8), Some(&sample));

    for (sequence, epoch) in [(2, 1), (6, 1), (4, 2)] {
        let mut other = disk.clone();
        other.samples(sequence, epoch, &[sample]);
        let lost = other.reload(&next_boot()).unwrap_err();
        assert!(lost.reason.contains("not those of"), "{lost}");
        assert!(!lost.overtaken);
    }
    for (sector, sectors) in [(8000, 8), (7996, 8), (u64::MAX, 8), (0, 7), (0, 136)] {
        let mut other = disk.clone();
        let crc = 0;
        other.samples(
            4,
            1,
            &[Sample {
                sector,
                sectors,
                crc,
            }],
        );
        let lost = other.reload(&next_boot()).unwrap_err();
        assert!(lost.reason.contains("make no sense"), "{lost}");
    }
    // A state that is dirty has none.
    disk.state(5, 1, Status::Dirty, Mode::Snapshot);
    assert!(disk.reload(&next_boot()).unwrap().samples.is_empty());
    let mut slot = [0; SLOT_BYTES];
    encode_samples(&[sample], &mut slot);
    assert_eq!(
        slot[PAYLOAD][..16],
        [136, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0]
    );
}
