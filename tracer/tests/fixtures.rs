//! Goal: traces of every layout stay readable, and damaged or newer ones are refused as far as they
//! are damaged or newer, with a clear message.
//! Method: files in `fixtures/`, written once by `rewrite_fixtures` (ignored) and then kept.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cowbird_events::devices::{BlockDevice, Snapshot};
use cowbird_events::event::{Flags, IoId, Kind, Marks, Op, Record};
use cowbird_events::format::{Chunk, Footer, FormatError, Meta, TraceReader, TraceWriter};

const CHUNK_EVENTS: usize = 8;
const EVENTS: u64 = 28;

fn path(name: &str) -> PathBuf {
    // Cargo runs tests in the folder of their package.
    PathBuf::from("tests/fixtures").join(name)
}

fn meta() -> Meta {
    Meta {
        tool: "cowbird-trace golden".to_owned(),
        kernel: "6.1.0-test".to_owned(),
        start_ns: 1_000_000,
        ring_bytes: 4096,
        module_events: true,
        devices: vec![BlockDevice {
            name: "vda1".to_owned(),
            number: "254:1".to_owned(),
            disk_number: "254:0".to_owned(),
            start_sector: 2048,
            sectors: 8192,
        }],
        ..Meta::default()
    }
}

fn footer() -> Footer {
    Footer {
        stopped_by: "signal".to_owned(),
        end_ns: 2_000_000,
        produced: EVENTS + 3,
        received: EVENTS,
        dropped: 3,
        dropped_per_cpu: vec![1, 2],
        recursion_misses: Some(0),
        snapshots: vec![Snapshot {
            minor: 0,
            block_device: "/dev/vda1".to_owned(),
            ..Snapshot::default()
        }],
        ..Footer::default()
    }
}

/// The kinds that there were when the golden trace was written.
const KINDS: [Kind; 14] = [
    Kind::BioQueue,
    Kind::RqIssue,
    Kind::RqComplete,
    Kind::BioComplete,
    Kind::Intercept,
    Kind::PreserveBegin,
    Kind::PreserveComplete,
    Kind::PreserveStore,
    Kind::Release,
    Kind::SnapshotRead,
    Kind::Epoch,
    Kind::State,
    Kind::Overflow,
    Kind::Error,
];

/// Every kind twice, every field with a value of its own.
fn records() -> Vec<Record> {
    let record = |at: u64| {
        let small = u32::try_from(at).unwrap();
        Record {
            sequence: at,
            time_ns: 1_000_000 + at * 1234,
            kind: KINDS[small as usize % KINDS.len()],
            cpu: small as u16 % 4,
            marks: Marks(small as u8 % 8),
            op: Op::ALL[small as usize % Op::ALL.len()],
            flags: Flags(small as u16 * 5),
            opf: small << 8 | 1,
            disk: 254 << 20,
            bdev: 254 << 20 | 1,
            sector: 2048 + at * 8,
            second: at * 3,
            amount: 4096 + small,
            status: -(small as i32),
            io: IoId(at + 1),
            parent: IoId(at / 2),
            tgid: 100 + small,
            tid: 200 + small,
            comm: *b"writer/0\0\0\0\0\0\0\0\0",
        }
    };
    (0..EVENTS).map(record).collect()
}

fn written() -> Vec<u8> {
    let mut writer = TraceWriter::new(Vec::new(), &meta()).unwrap();
    for record in records() {
        writer.push(record).unwrap();
        if writer.pending() == CHUNK_EVENTS {
            writer.flush().unwrap();
        }
    }
    writer.finish(&footer()).unwrap().0
}

/// Events, footer and defects.
type Content = (Vec<Record>, Option<Footer>, Vec<String>);

/// What can be read of a fixture.
fn read(name: &str) -> Result<Content, FormatError> {
    let bytes = fs::read(path(name)).unwrap();
    let mut reader = TraceReader::new(bytes.as_slice())?;
    let (mut events, mut footer) = (Vec::new(), None);
    while let Some(chunk) = reader.next_chunk()? {
        match chunk {
            Chunk::Meta(found) => assert_eq!(*found, meta()),
            Chunk::Events(found) => events.extend(found),
            Chunk::Footer(found) => footer = Some(*found),
        }
    }
    Ok((events, footer, reader.defects()))
}

#[test]
fn golden_traces_of_every_layout_read_as_they_were_written() {
    for name in ["golden-v1.cbt", "golden-layout-2.cbt"] {
        let (events, found, defects) = read(name).unwrap();
        assert_eq!(events, records(), "{name}");
        assert_eq!(found, Some(footer()), "{name}");
        assert_eq!(defects, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_truncated_trace_yields_what_is_before_the_cut() {
    let (events, found, defects) = read("truncated.cbt").unwrap();
    assert_eq!(events, records()[..CHUNK_EVENTS * 2]);
    assert_eq!(found, None);
    assert_eq!(defects.len(), 2, "{defects:?}");
    assert!(
        defects[0].contains("the file ends inside a chunk"),
        "{defects:?}"
    );
    assert!(defects[1].contains("no footer"), "{defects:?}");
}

#[test]
fn a_flipped_bit_costs_one_chunk() {
    let (events, found, defects) = read("bit-flip.cbt").unwrap();
    let all = records();
    let expected = [&all[..CHUNK_EVENTS], &all[CHUNK_EVENTS * 2..]].concat();
    assert_eq!(events, expected);
    assert_eq!(found, Some(footer()));
    assert_eq!(defects.len(), 2, "{defects:?}");
    assert!(
        defects[0].contains("the checksum of a chunk is wrong"),
        "{defects:?}"
    );
    assert_eq!(defects[1], "8 events missing between chunks");
}

#[test]
fn a_chunk_of_a_future_layout_is_passed_over() {
    let (events, _, defects) = read("future-layout.cbt").unwrap();
    assert_eq!(events.len(), records().len() - CHUNK_EVENTS);
    assert!(
        defects[0].contains("layout 65535, this program reads layouts 1 and 2"),
        "{defects:?}"
    );
}

#[test]
fn a_future_container_is_refused() {
    let error = read("future-container.cbt").unwrap_err().to_string();
    assert!(
        error.contains("container version 2, this program reads version 1"),
        "{error}"
    );
}

#[test]
fn another_file_is_refused() {
    let error = read("not-a-trace.cbt").unwrap_err();
    assert!(matches!(error, FormatError::NotATrace), "{error}");
}

/// Goal: silence about a trace with gaps would be a lie, so nothing is concluded from one.
#[test]
fn verify_refuses_what_is_not_complete() {
    for (name, reason) in [
        ("truncated.cbt", "no footer"),
        ("bit-flip.cbt", "checksum"),
        ("golden-v1.cbt", "3 events dropped"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_cowbird-trace"))
            .arg("verify")
            .arg(path(name))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{name}: {said}");
        assert!(output.stdout.is_empty(), "{name}");
        assert!(
            said.contains("nothing can be concluded") && said.contains(reason),
            "{said}"
        );
    }
}

/// Places where chunks begin.
fn chunks(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len() - 4)
        .filter(|at| &bytes[*at..at + 4] == b"BCHK")
        .collect()
}

fn with_checksum(bytes: &mut [u8], start: usize, length: usize) {
    let checksum = crc32c::crc32c(&bytes[start..start + length]);
    bytes[start + length..start + length + 4].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
#[ignore = "overwrites the fixtures, which exist to be kept"]
fn rewrite_fixtures() {
    let golden = written();
    let starts = chunks(&golden); // meta, four of events, footer
    let save = |name: &str, bytes: &[u8]| fs::write(path(name), bytes).unwrap();
    // Not golden-v1.cbt: nothing writes its layout any more.
    save("golden-layout-2.cbt", &golden);
    save("truncated.cbt", &golden[..starts[3] + 100]);
    let mut bytes = golden.clone();
    bytes[starts[2] + 70] ^= 0x10;
    save("bit-flip.cbt", &bytes);
    let mut bytes = golden.clone();
    bytes[starts[2] + 6..starts[2] + 8].fill(0xff);
    with_checksum(&mut bytes, starts[2], 44);
    save("future-layout.cbt", &bytes);
    let mut bytes = golden;
    bytes[8] = 2;
    with_checksum(&mut bytes, 0, 28);
    save("future-container.cbt", &bytes);
    save(
        "not-a-trace.cbt",
        b"ELF is what this is not, and neither is it a trace.\n",
    );
}
