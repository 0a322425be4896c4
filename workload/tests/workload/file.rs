//! The file: what is written is read, and nothing else is.

use cowbird_workload::{
    Action, Builder, Content, Extent, FORMAT_VERSION, Flags, FormatError, Workload,
};
use proptest::prelude::*;

use crate::common::workloads;

proptest! {
    /// Goal: no operation changes on its way through a file.
    #[test]
    fn what_is_written_is_read(workload in workloads(1 << 53)) {
        prop_assert_eq!(Workload::decode(&workload.encode()), Ok(workload));
    }

    /// Goal: a damaged file is never read as another workload. Method: one flipped bit anywhere.
    #[test]
    fn a_flipped_bit_is_noticed(workload in workloads(10_000), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut file = workload.encode();
        let at = at.index(file.len());
        file[at] ^= 1_u8 << bit;
        prop_assert!(Workload::decode(&file).is_err());
    }

    /// Goal: a part of a file is never read as a workload, and the reason is said.
    #[test]
    fn a_cut_file_is_noticed(workload in workloads(10_000), length in any::<prop::sample::Index>()) {
        let file = workload.encode();
        let cut = &file[..length.index(file.len())];
        let error = Workload::decode(cut).expect_err("it is cut");
        let expected = cut.is_empty() && error == FormatError::NotAWorkload
            || !cut.is_empty() && matches!(error, FormatError::Truncated { .. });
        prop_assert!(expected, "{error}");
    }

    /// Goal: whatever bytes have right checksums, reading them ends, in bounded memory, without a panic.
    #[test]
    fn any_body_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Workload::decode(&with_body(&body));
    }
}

/// A file with right checksums around any body.
fn with_body(body: &[u8]) -> Vec<u8> {
    let mut file = b"CBWORKL\n".to_vec();
    file.extend(FORMAT_VERSION.to_le_bytes());
    file.extend(crc32c::crc32c(body).to_le_bytes());
    file.extend((body.len() as u64).to_le_bytes());
    file.extend([0; 4]);
    file.extend(crc32c::crc32c(&file).to_le_bytes());
    file.extend(body);
    file
}

/// Two writes, one with known contents, and a flush.
fn example() -> Workload {
    let mut builder = Builder::default();
    let write = |builder: &mut Builder, at, offset, length| {
        builder.push(
            at,
            Action::Write,
            Flags::FUA,
            Extent::of_bytes(offset, length),
        )
    };
    let first = write(&mut builder, 100, 4096, 12288).expect("it has sectors");
    for (piece, content) in [Content::Known(0), Content::Zeroes, Content::Known(1)]
        .into_iter()
        .enumerate()
    {
        builder.content(first, piece as u64, content);
    }
    builder.push(350, Action::Flush, Flags::default(), Extent::default());
    write(&mut builder, 400, 512, 1024);
    builder.finish("x", vec!["y".to_owned()])
}

/// Goal: files that were written stay readable. Method: the bytes of version 1, worked out by hand.
#[test]
fn version_1_is_for_ever() {
    let body = [
        1, b'x', // source
        1, 1, b'y', // one doubt
        3,    // operations
        0b101_0001, 0, 16, 24, 2, 1,
        2, // write, FUA, contents; at 0 ns, sector 8, 24 sectors; new, zeros, new
        0b000_0010, 250, 1, // flush after 250 ns
        0b001_0001, 50, 61,
        2, // write, FUA, after 50 ns, sector 1: 31 before the end of the last one
    ];
    assert_eq!(with_body(&body), example().encode());
    assert_eq!(Workload::decode(&with_body(&body)), Ok(example()));
}

/// Goal: a real recording stays readable. Method: that of fio which `cargo xtask test` replays.
#[test]
fn the_recording_of_fio_is_read() {
    // Cargo runs tests in the folder of their package.
    let path = "fixtures/fio.cbw";
    let workload = Workload::decode(&std::fs::read(path).expect("it is there"));
    let workload = workload.expect("it is intact");
    assert_eq!(workload.source(), "a trace of loop0");
    assert!(workload.doubts().is_empty());
    let count = |action| {
        let operations = workload.operations().iter();
        operations
            .filter(|operation| operation.action == action)
            .count()
    };
    assert_eq!(Action::ALL.map(count), FIO_ACTIONS);
    let contents: Vec<Content> = workload
        .operations()
        .iter()
        .flat_map(|operation| operation.contents.iter().copied())
        .collect();
    let known = |content: &&Content| matches!(content, Content::Known(_));
    let distinct: std::collections::HashSet<&Content> = contents.iter().filter(known).collect();
    let known = contents.iter().filter(known).count();
    assert_eq!(
        (contents.len(), contents.len() - known),
        (6484, 80),
        "zeros"
    );
    assert_eq!(known - distinct.len(), 160, "alike");
}

/// Reads, writes, flushes, discards and write-zeroes of the recording.
const FIO_ACTIONS: [usize; 5] = [201, 1279, 31, 20, 0];

#[test]
fn every_refusal_says_what_to_do() {
    let good = example().encode();
    let mut future = good.clone();
    future[8] = 9;
    let checksum = crc32c::crc32c(&future[..28]);
    future[28..32].copy_from_slice(&checksum.to_le_bytes());
    let mut longer = good.clone();
    longer.push(0);
    let mut damaged = good.clone();
    damaged[40] ^= 1;
    let cases: [(&[u8], &str, &str); 6] = [
        (b"GIF89a", "no workload", "cowbird-trace export"),
        (&future, "version 9", "newer Cowbird"),
        (&good[..50], "cut off: 50 bytes of", "copy it again"),
        (&longer, "1 bytes follow", "copy it again"),
        (&damaged, "body is damaged", "export it again"),
        (
            &with_body(&[0, 0, 1, 7, 0]),
            "action is unknown",
            "report this",
        ),
    ];
    for (file, what, advice) in cases {
        let said = Workload::decode(file).expect_err(what).to_string();
        assert!(said.contains(what) && said.contains(advice), "{said}");
    }
}

/// Goal: it is compact. Method: many writes of 4 KiB with new contents at random places.
#[test]
fn a_write_takes_few_bytes() {
    let mut builder = Builder::default();
    let count = 10_000_u64;
    for at in 0..count {
        let offset = at * 7919 % 250_000 * 4096;
        let extent = Extent::of_bytes(offset, 4096);
        let place = builder.push(at * 90_000, Action::Write, Flags::SYNC, extent);
        let content = Content::Known(at as u32);
        builder.content(place.expect("it has sectors"), 0, content);
    }
    let bytes = builder.finish("x", Vec::new()).encode().len() as u64;
    assert!(bytes <= 10 * count, "{bytes} bytes");
}
