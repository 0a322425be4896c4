//! Goal: what is written is read, and what is damaged is named while the rest is read.
//! Method: generated events there and back; one trace cut and flipped at every byte.

use proptest::prelude::*;

use super::*;
use crate::event::{Flags, IoId, Kind, Marks, Op, Record};

prop_compose! {
    fn record()(
        words in any::<[u64; 5]>(),
        halves in any::<[u32; 6]>(),
        status in any::<i32>(),
        small in any::<(u16, u16, u8)>(),
        kind in 0..Kind::ALL.len(),
        op in 0..Op::ALL.len(),
        comm in any::<[u8; 16]>(),
    ) -> Record {
        Record {
            sequence: 0,
            time_ns: words[0],
            kind: Kind::ALL[kind],
            cpu: small.0,
            marks: Marks(small.2),
            op: Op::ALL[op],
            flags: Flags(small.1),
            opf: halves[0],
            disk: halves[1],
            bdev: halves[2],
            sector: words[1],
            second: words[2],
            amount: halves[3],
            status,
            io: IoId(words[3]),
            parent: IoId(words[4]),
            tgid: halves[4],
            tid: halves[5],
            comm,
        }
    }
}

fn numbered(mut records: Vec<Record>) -> Vec<Record> {
    for (at, record) in records.iter_mut().enumerate() {
        record.sequence = at as u64;
    }
    records
}

fn write(records: &[Record], chunk_events: usize) -> Vec<u8> {
    let mut writer = TraceWriter::new(Vec::new(), &Meta::default()).unwrap();
    for record in records {
        writer.push(record.clone()).unwrap();
        if writer.pending() >= chunk_events {
            writer.flush().unwrap();
        }
    }
    let footer = Footer {
        produced: records.len() as u64,
        received: records.len() as u64,
        ..Footer::default()
    };
    writer.finish(&footer).unwrap().0
}

/// Events, and the defects that the reader reports.
fn read(bytes: &[u8]) -> Result<(Vec<Record>, Vec<String>), FormatError> {
    let mut reader = TraceReader::new(bytes)?;
    let mut records = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        if let Chunk::Events(events) = chunk {
            records.extend(events);
        }
    }
    Ok((records, reader.defects()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_written_is_read(
        records in proptest::collection::vec(record(), 0..200),
        chunk_events in 1..64_usize,
    ) {
        let records = numbered(records);
        let (found, defects) = read(&write(&records, chunk_events)).unwrap();
        prop_assert_eq!(found, records);
        prop_assert_eq!(defects, Vec::<String>::new());
    }

    #[test]
    fn noise_is_never_believed(noise in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let mut bytes = write(&[], 1);
        bytes.truncate(FILE_HEADER_BYTES);
        bytes.extend_from_slice(&noise);
        let (records, defects) = read(&bytes).unwrap();
        prop_assert!(records.is_empty());
        prop_assert!(!defects.is_empty());
    }
}

fn sample() -> Vec<Record> {
    let one = |sequence: u64| Record {
        sequence,
        time_ns: 1000 + sequence * 7,
        kind: Kind::ALL[sequence as usize % Kind::ALL.len()],
        cpu: 1,
        marks: Marks(0),
        op: Op::Write,
        flags: Flags(9),
        opf: 1,
        disk: 7 << 20,
        bdev: 0,
        sector: sequence * 8,
        second: 0,
        amount: 4096,
        status: 0,
        io: IoId(sequence + 1),
        parent: IoId(0),
        tgid: 10,
        tid: 11,
        comm: *b"writer\0\0\0\0\0\0\0\0\0\0",
    };
    (0..60).map(one).collect()
}

#[test]
fn a_cut_anywhere_leaves_what_is_before_it() {
    let records = sample();
    let whole = write(&records, 10);
    let mut counts = Vec::new();
    for length in 0..whole.len() {
        let result = read(&whole[..length]);
        if length < FILE_HEADER_BYTES {
            assert!(
                matches!(result, Err(FormatError::NotATrace)),
                "cut at {length}"
            );
            continue;
        }
        let (found, defects) = result.unwrap();
        assert_eq!(found, records[..found.len()], "cut at {length}");
        assert!(!defects.is_empty(), "cut at {length} went unnoticed");
        counts.push(found.len());
    }
    assert!(counts.is_sorted());
    counts.dedup();
    assert_eq!(counts, [0, 10, 20, 30, 40, 50, 60]);
}

#[test]
fn a_flipped_bit_anywhere_costs_at_most_its_chunk() {
    let records = sample();
    let whole = write(&records, 10);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let result = read(&bytes);
        if at < FILE_HEADER_BYTES {
            assert!(result.is_err(), "flip at {at} went unnoticed");
            continue;
        }
        let (found, defects) = result.unwrap();
        assert!(!defects.is_empty(), "flip at {at} went unnoticed");
        assert!(
            found.len() >= 50,
            "flip at {at} cost {} events",
            60 - found.len()
        );
        assert!(
            found.iter().all(|record| records.contains(record)),
            "flip at {at} was believed"
        );
    }
}

#[test]
fn a_lost_chunk_in_the_middle_is_counted() {
    let records = sample();
    let whole = write(&records, 10);
    let starts: Vec<usize> = (0..whole.len() - 4)
        .filter(|at| whole[*at..at + 4] == CHUNK_MAGIC)
        .collect();
    let bytes = [&whole[..starts[3]], &whole[starts[4]..]].concat();
    let (found, defects) = read(&bytes).unwrap();
    assert_eq!(found.len(), 50);
    assert_eq!(defects, ["10 events missing between chunks"]);
}

#[test]
fn losses_are_named() {
    let footer = Footer {
        produced: 10,
        received: 7,
        dropped: 2,
        lost_to_recursion: 4,
        ..Footer::default()
    };
    let losses = footer.losses().join("; ");
    assert!(losses.contains("2 events dropped"));
    assert!(losses.contains("4 events at most lost"));
    assert!(losses.contains("1 events unaccounted for"));
    assert_eq!(Footer::default().losses(), Vec::<String>::new());
}

#[test]
fn unpaired_requests_are_a_loss_unless_a_counter_explains_them() {
    let footer = |dropped, unpaired| Footer {
        produced: dropped,
        dropped,
        unpaired,
        ..Footer::default()
    };
    let unseen = footer(0, 3).losses().join("; ");
    assert!(unseen.starts_with("3 issues or completions"), "{unseen}");
    assert_eq!(footer(3, 3).losses().len(), 1);
}

/// Goal: the count of missing events overflows nowhere, whatever the chunks say of their sequences. Found by `cowbird-fuzz`.
#[test]
fn sequences_at_the_end_of_64_bits_are_counted() {
    let mut records = sample();
    records.truncate(3);
    for (record, sequence) in records.iter_mut().zip([u64::MAX - 5, 0, u64::MAX - 5]) {
        record.sequence = sequence;
    }
    let (found, defects) = read(&write(&records, 1)).unwrap();
    assert_eq!(found.len(), 3);
    let missing = format!("{} events missing between chunks", u64::MAX);
    assert!(defects.contains(&missing), "{defects:?}");
}
