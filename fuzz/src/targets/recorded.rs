//! What was recorded: the witness, workloads and what they are made of, traces, and frames of the guest.

use cowbird_events::btf::Btf;
use cowbird_events::event::Record;
use cowbird_events::format::{Chunk, Footer, Meta, TraceReader, TraceWriter};
use cowbird_model::WitnessLog;
use cowbird_model::witness;
use cowbird_proto::frame::{self, CHECKSUM, COVERED, Decoder, HEADER_BYTES, LENGTH};
use cowbird_proto::message::{
    Event, FromGuest, GuestError, Hello, KernelRecord, Reply, Request, RequestId, ToGuest,
};
use cowbird_workload::{Action, Builder, Extent, Flags, Sector, Source, Workload, import, remap};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::target::{Kind, LIMIT_BYTES, MAX_BYTES, Target, put_crc, repairs_nothing, same};

pub(super) const WITNESS: Target = Target {
    name: "witness",
    reads: "QEMU's log of writes (model)",
    seeds: witness_seeds,
    words: &[b"\x72\x68\x73\x77\x66\x73\x6a\x00"],
    max_bytes: 16 << 10,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_witness,
};

pub(super) const WORKLOAD: Target = Target {
    name: "workload",
    reads: "a recorded workload, *.cbw (workload)",
    seeds: workload_seeds,
    words: &[b"CBWORKL\n"],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repair_workload,
    check: check_workload,
};

pub(super) const BLKPARSE: Target = Target {
    name: "blkparse",
    reads: "the text of blkparse (workload)",
    seeds: blkparse_seeds,
    words: &[
        b"  8,0    3        1     0.000000000   697  Q   W 223490 + 8 [x]\n",
        b" Q ",
        b" FWFS ",
        b" DS ",
        b" + ",
        b"Skips: ",
        b".",
        b"8,0",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_import,
};

pub(super) const IOLOG: Target = Target {
    name: "iolog",
    reads: "fio's iolog, versions 2 and 3 (workload)",
    seeds: iolog_seeds,
    words: &[
        b"fio version 2 iolog\n",
        b"fio version 3 iolog\n",
        b" add\n",
        b" open\n",
        b" close\n",
        b" write ",
        b" read ",
        b" trim ",
        b" wait ",
        b" sync ",
        b" datasync ",
        b"/a",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_import,
};

pub(super) const TRACE: Target = Target {
    name: "trace",
    reads: "a trace, layouts 1 and 2 (tracer)",
    seeds: trace_seeds,
    words: &[b"CBTRACE\n", b"BCHK"],
    max_bytes: 16 << 10,
    limit_bytes: LIMIT_BYTES,
    repair: repair_trace,
    check: check_trace,
};

pub(super) const BTF: Target = Target {
    name: "btf",
    reads: "the kernel's BTF (tracer)",
    seeds: btf_seeds,
    words: &[b"btf_trace_x", b"bio"],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_btf,
};

pub(super) const FRAMES: Target = Target {
    name: "frames",
    reads: "frames between guest and host (harness/proto)",
    seeds: frame_seeds,
    words: &[],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repair_frames,
    check: check_frames,
};

// ---- the witness ----

const LOG_SECTOR: usize = 512;

fn log(counted: u64, entries: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut log = Vec::new();
    let sector = |words: &[u64]| {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(LOG_SECTOR, 0);
        bytes
    };
    log.extend(sector(&[witness::MAGIC, witness::VERSION, counted, 512]));
    for &(at, sectors, flags) in entries {
        log.extend(sector(&[at, sectors, flags, 0]));
        if flags & 4 == 0 {
            log.extend(vec![at as u8; sectors as usize * LOG_SECTOR]);
        }
    }
    log
}

fn witness_seeds() -> Vec<Vec<u8>> {
    let entries = [(8, 2, 0), (0, 0, 1), (64, 8, 4), (9, 1, 2), (4, 0, 8)];
    vec![log(5, &entries), log(2, &entries), log(0, &[])]
}

fn check_witness(input: &[u8]) -> Result<Kind, String> {
    let log = match WitnessLog::parse(input) {
        Ok(log) => log,
        Err(error) => return Ok(Kind::refused(error)),
    };
    for (at, entry) in log.entries().iter().enumerate() {
        same("index", &entry.index.0, &(at as u64))?;
        if !entry.data.is_empty() && entry.kind == witness::EntryKind::Write {
            same("data", &entry.data.len(), &(entry.sectors as usize * 512))?;
        }
        let range = entry.range();
        if range.start.0.checked_add(range.sectors).is_none() {
            return Err("an entry ends behind every disk".to_owned());
        }
    }
    Ok(Kind::accepted(&[
        log.entries().len() as u64,
        log.counted(),
        log.log_sector_bytes().into(),
    ]))
}

// ---- workloads ----

fn workload_seeds() -> Vec<Vec<u8>> {
    let mut builder = Builder::default();
    let extent = |start, sectors| Extent {
        start: Sector(start),
        sectors,
    };
    builder.push(5, Action::Write, Flags(0), extent(16, 8));
    builder.push(9, Action::Write, Flags(3), extent(17, 3));
    builder.push(30, Action::Discard, Flags(0), extent(4096, 256));
    builder.push(31, Action::Flush, Flags(0), extent(0, 0));
    builder.push(40, Action::Read, Flags(0), extent(2048, 8));
    let made = builder.finish("made by hand", vec!["a doubt".to_owned()]);
    let recorded = include_bytes!("../../../workload/fixtures/fio.cbw");
    // The first of what fio did.
    let mut few = Builder::default();
    for operation in Workload::decode(recorded)
        .iter()
        .flat_map(Workload::operations)
        .take(40)
    {
        few.push(
            operation.at_ns,
            operation.action,
            operation.flags,
            operation.extent,
        );
    }
    vec![made.encode(), few.finish("fio", Vec::new()).encode()]
}

fn repair_workload(input: &mut [u8]) {
    let Some(body) = input.len().checked_sub(32) else {
        return;
    };
    let crc = crc32c::crc32c(&input[32..]).to_le_bytes();
    input[12..16].copy_from_slice(&crc);
    input[16..24].copy_from_slice(&(body as u64).to_le_bytes());
    put_crc(input, 0..28, 28);
}

fn check_workload(input: &[u8]) -> Result<Kind, String> {
    let workload = match Workload::decode(input) {
        Ok(workload) => workload,
        Err(error) => return Ok(Kind::refused(error)),
    };
    check_made(&workload)
}

/// What is made of a workload in any case.
fn check_made(workload: &Workload) -> Result<Kind, String> {
    let again = Workload::decode(&workload.encode()).map_err(|error| error.to_string());
    same("written again", &again.as_ref(), &Ok(workload))?;
    let volume = remap::volume_sectors(workload, 2048, 1 << 20);
    let moved = remap(workload, volume);
    let end = moved.workload.operations().iter().map(|operation| {
        let extent = operation.extent;
        extent.start.0.saturating_add(extent.sectors)
    });
    if end.max().is_some_and(|end| end > volume) {
        return Err(format!("moved beyond the volume of {volume} sectors"));
    }
    Ok(Kind::accepted(&[
        workload.operations().len() as u64,
        workload.doubts().len() as u64,
        volume,
    ]))
}

fn blkparse_seeds() -> Vec<Vec<u8>> {
    let text = "\
  8,0    3        1     0.000000000   697  Q   W 223490 + 8 [kjournald]
  8,0    3        4     0.000004000   697  Q  RA 100 + 256 [a b c]
  8,0    1        5     0.000003000     0  C   W 223490 + 8 [0]
  8,0    1        6     1.500000000   900  Q FWFS 64 + 1 [fsync me]
  8,0    1        7     1.500001000   900  Q  FN [fsync me]
  8,0    1        8     1.500002000   900  Q   N 36 (12 00 00 00 24 00 ..) [smartd]
  8,0    1        9     2.000000000   900  Q  DS 2048 + 4096 [fstrim]
CPU1 (8,0):
 Reads Queued:           1,      128KiB\t Writes Queued:           2,        4KiB
Skips: 2 forward (7 -   0.0%)
";
    vec![text.into()]
}

fn iolog_seeds() -> Vec<Vec<u8>> {
    let second = "\
fio version 2 iolog
/dev/sda add
/dev/sda open
/srv/b add
/srv/b open
/dev/sda write 4096 8192
/dev/sda wait 250 0
/srv/b write 0 512
/dev/sda read 1048570 10
/dev/sda trim 0 4096
/dev/sda wait 250 0
/srv/b datasync 0 0
/dev/sda close
/srv/b close
";
    let third = "\
fio version 3 iolog
16 /tmp/f add
107 /tmp/f open
113 /tmp/f read 61440 4096
20085 /tmp/f sync 774144 0
180333 /tmp/f close
";
    vec![second.into(), third.into()]
}

fn check_import(input: &[u8]) -> Result<Kind, String> {
    if input.last() != Some(&b'\n') {
        // Such a text is refused as a whole; what its lines are is asked as well.
        check_lines(input)?;
        return check_lines(&[input, b"\n"].concat());
    }
    check_lines(input)
}

fn check_lines(input: &[u8]) -> Result<Kind, String> {
    match import(input) {
        Ok(workload) => check_made(&workload),
        Err(error) => {
            let source = cowbird_workload::recognise(input).map_or(0, |source| match source {
                Source::Workload => 1,
                Source::Trace => 2,
                Source::Iolog => 3,
                Source::Blkparse => 4,
            });
            Ok(Kind(Kind::refused(error).0 ^ source))
        }
    }
}

// ---- traces ----

fn trace_seeds() -> Vec<Vec<u8>> {
    [
        &include_bytes!("../../../tracer/tests/fixtures/golden-v1.cbt")[..],
        &include_bytes!("../../../tracer/tests/fixtures/golden-layout-2.cbt")[..],
    ]
    .into_iter()
    .flat_map(|trace| [trace.to_vec(), unpacked(trace)])
    .collect()
}

const TRACE_HEADER: usize = 32;
const CHUNK_HEADER: usize = 48;

fn word(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 4]
        .iter()
        .rfold(0, |word, byte| word << 8 | usize::from(*byte))
}

/// The chunks without compression, behind which no change would be seen.
fn unpacked(trace: &[u8]) -> Vec<u8> {
    let mut plain = trace[..TRACE_HEADER].to_vec();
    let mut rest = &trace[TRACE_HEADER..];
    while rest.len() >= CHUNK_HEADER {
        let (header, payload) = rest.split_at(CHUNK_HEADER);
        let (stored, length) = (word(header, 8), word(header, 12));
        let content = match header[5] {
            1 => zstd::bulk::decompress(&payload[..stored], length).unwrap_or_default(),
            _ => payload[..stored].to_vec(),
        };
        let at = plain.len();
        plain.extend_from_slice(header);
        plain[at + 5] = 0;
        plain[at + 8..at + 12].copy_from_slice(&(content.len() as u32).to_le_bytes());
        plain.extend_from_slice(&content);
        rest = &payload[stored..];
    }
    repair_trace(&mut plain);
    plain
}

/// Checksums of the file's header and of each chunk, as far as one follows the other; a chunk that is too long for the rest
/// is made to end there.
fn repair_trace(input: &mut [u8]) {
    put_crc(input, 0..28, 28);
    let mut at = TRACE_HEADER;
    while input.len() >= at + CHUNK_HEADER {
        let left = input.len() - at - CHUNK_HEADER;
        let stored = word(input, at + 8);
        if stored > left {
            input[at + 8..at + 12].copy_from_slice(&(left as u32).to_le_bytes());
        }
        let end = at + CHUNK_HEADER + stored.min(left);
        put_crc(input, at + CHUNK_HEADER..end, at + 20);
        put_crc(input, at..at + 44, at + 44);
        at = end;
    }
}

/// What a trace says, if it is whole and in the usual order.
type Whole = Option<(Meta, Vec<Record>, Footer)>;

fn read_trace(bytes: &[u8]) -> Result<(Whole, [u64; 4]), String> {
    let mut reader = TraceReader::new(bytes).map_err(|error| error.to_string())?;
    let (mut metas, mut records, mut footers) = (Vec::new(), Vec::new(), Vec::new());
    let mut ordered = true;
    while let Some(chunk) = reader.next_chunk().map_err(|error| error.to_string())? {
        match chunk {
            Chunk::Meta(meta) => {
                ordered &= records.is_empty() && footers.is_empty();
                metas.push(*meta);
            }
            Chunk::Events(events) => {
                ordered &= !metas.is_empty() && footers.is_empty();
                records.extend(events);
            }
            Chunk::Footer(footer) => footers.push(*footer),
        }
    }
    let figures = [
        metas.len() as u64,
        records.len() as u64,
        footers.len() as u64,
        reader.defects().len() as u64,
    ];
    let follow = records
        .iter()
        .enumerate()
        .all(|(at, record)| record.sequence == at as u64);
    ordered &= follow && metas.len() == 1 && footers.len() == 1;
    let whole = match (metas.pop(), footers.pop()) {
        (Some(meta), Some(footer)) if ordered => Some((meta, records, footer)),
        _ => None,
    };
    Ok((whole, figures))
}

fn check_trace(input: &[u8]) -> Result<Kind, String> {
    let (whole, figures) = match read_trace(input) {
        Ok(read) => read,
        Err(error) => return Ok(Kind::of_text(&error)),
    };
    if let Some((meta, records, footer)) = whole {
        let write = || -> Result<Vec<u8>, cowbird_events::format::FormatError> {
            let mut writer = TraceWriter::new(Vec::new(), &meta)?;
            for record in &records {
                writer.push(record.clone())?;
            }
            Ok(writer.finish(&footer)?.0)
        };
        let written = write().map_err(|error| format!("cannot be written again: {error}"))?;
        let (again, _) = read_trace(&written)?;
        same("written again", &again, &Some((meta, records, footer)))?;
    }
    Ok(Kind::accepted(&figures))
}

// ---- BTF ----

fn btf_seeds() -> Vec<Vec<u8>> {
    let strings = b"\0bio\0btf_trace_x\0e\0A\0B\0";
    let types: [&[u32]; 7] = [
        &[1, 4 << 24, 8],                    // 1: struct bio
        &[0, 2 << 24, 1],                    // 2: pointer to it
        &[0, 2 << 24, 0],                    // 3: void *
        &[0, 13 << 24 | 2, 0, 0, 3, 0, 2],   // 4: prototype
        &[0, 2 << 24, 4],                    // 5: pointer to it
        &[5, 8 << 24, 5],                    // 6: typedef
        &[17, 6 << 24 | 2, 4, 19, 3, 21, 4], // 7: enum
    ];
    let types: Vec<u8> = types
        .concat()
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let mut btf = vec![0x9F, 0xEB, 1, 0];
    for word in [
        24,
        0,
        types.len() as u32,
        types.len() as u32,
        strings.len() as u32,
    ] {
        btf.extend_from_slice(&word.to_le_bytes());
    }
    btf.extend_from_slice(&types);
    btf.extend_from_slice(strings);
    vec![btf]
}

fn check_btf(input: &[u8]) -> Result<Kind, String> {
    let btf = match Btf::parse(input) {
        Ok(btf) => btf,
        Err(error) => return Ok(Kind::refused(error)),
    };
    Ok(Kind::accepted(&[
        btf.tracepoint("x")
            .map_or(0, |parameters| 1 + parameters.len() as u64),
        u64::from(btf.has_typedef("btf_trace_x")),
        btf.size_of("bio").unwrap_or(0).into(),
        btf.member_offset("bio", "e").unwrap_or(0).into(),
        btf.member_type("bio", "e")
            .map_or(0, |name| 1 + name.len() as u64),
        btf.constants("e")
            .map_or(0, |constants| 1 + constants.len() as u64),
    ]))
}

// ---- frames ----

fn frame_seeds() -> Vec<Vec<u8>> {
    let id = RequestId(7);
    let record = KernelRecord {
        sequence: 3,
        level: 4,
        time_us: 99,
        text: "a line".to_owned(),
    };
    let from = [
        FromGuest::Hello(Hello {
            kernel_release: "6.1.0".to_owned(),
            command_line: "quiet".to_owned(),
            boot_ms: 900,
            cpus: 2,
        }),
        FromGuest::Response {
            id,
            result: Ok(Reply::KernelLog {
                records: vec![record],
                complete: true,
            }),
        },
        FromGuest::Response {
            id,
            result: Err(GuestError {
                message: "no".to_owned(),
                errno: Some(5),
            }),
        },
        FromGuest::Event(Event::Heartbeat { uptime_ms: 5 }),
    ];
    let request = Request::Run {
        program: "/bin/true".to_owned(),
        args: vec!["a".to_owned(), String::new()],
        timeout_ms: 1000,
    };
    let to = ToGuest::Request { id, request };
    let encoded = |message: &FromGuest| frame::encode(message).unwrap_or_default();
    let stream: Vec<u8> = from.iter().flat_map(encoded).collect();
    let mut seeds: Vec<Vec<u8>> = from.iter().map(encoded).collect();
    seeds.push(stream);
    seeds.push(frame::encode(&to).unwrap_or_default());
    seeds
}

/// Lengths and checksums of frames that follow each other.
fn repair_frames(input: &mut [u8]) {
    let mut at = 0;
    while input.len() >= at + HEADER_BYTES {
        let (header, rest) = input[at..].split_at_mut(HEADER_BYTES);
        let length = word(header, LENGTH.start);
        if length > rest.len() {
            header[LENGTH].copy_from_slice(&(rest.len() as u32).to_le_bytes());
        }
        let payload = &rest[..length.min(rest.len())];
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[COVERED]), payload);
        header[CHECKSUM].copy_from_slice(&crc.to_le_bytes());
        at += HEADER_BYTES + payload.len();
    }
}

/// Every message is taken, in pieces; errors go on behind the damage.
fn drain<M: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
    input: &[u8],
) -> Result<[u64; 2], String> {
    let mut decoder = Decoder::new();
    let (mut messages, mut errors) = (0, 0);
    let cut = input.len() / 3;
    for piece in [&input[..cut], &input[cut..]] {
        decoder.push(piece);
        loop {
            match decoder.next_message::<M>() {
                Ok(None) => break,
                Ok(Some(message)) => {
                    messages += 1;
                    let frame = frame::encode(&message).map_err(|error| error.to_string())?;
                    let mut again = Decoder::new();
                    again.push(&frame);
                    let again = again.next_message::<M>().map_err(|error| error.to_string());
                    same("written again", &again, &Ok(Some(message)))?;
                }
                Err(_) => errors += 1,
            }
            if messages + errors > input.len() as u64 {
                return Err("more messages and errors than bytes".to_owned());
            }
        }
    }
    if decoder.stream_offset() > input.len() as u64 {
        return Err("more was taken than there is".to_owned());
    }
    Ok([messages, errors])
}

fn check_frames(input: &[u8]) -> Result<Kind, String> {
    let from = drain::<FromGuest>(input)?;
    let to = drain::<ToGuest>(input)?;
    if from[0] + to[0] == 0 {
        return Ok(Kind::of_text("no frame"));
    }
    Ok(Kind::accepted(&[from[0], from[1], to[0], to[1]]))
}
