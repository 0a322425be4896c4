//! Importers, on inputs written by hand.

use cowbird_workload::{
    Action, Builder, Extent, Flags, ImportError, Source, Workload, import, recognise,
};

const BLKPARSE: &str = "\
  8,0    3        1     0.000000000   697  Q   W 223490 + 8 [kjournald]
  8,0    3        2     0.000001829   697  G   W 223490 + 8 [kjournald]
  8,0    3        3     0.000002197   697  P   N [kjournald]
  8,0    3        4     0.000004000   697  Q  RA 100 + 256 [a b c]
  8,0    1        5     0.000003000     0  C   W 223490 + 8 [0]
  8,0    1        6     1.500000000   900  Q FWFS 64 + 1 [fsync me]
  8,0    1        7     1.500001000   900  Q  FN [fsync me]
  8,0    1        8     1.500002000   900  Q   N 36 (12 00 00 00 24 00 ..) [smartd]
  8,0    1        9     2.000000000   900  Q  DS 2048 + 4096 [fstrim]
CPU1 (8,0):
 Reads Queued:           1,      128KiB\t Writes Queued:           2,        4KiB
Throughput (R/W): 0KiB/s / 0KiB/s
";

/// What `blkparse` 1.2.0 prints of events of these kinds.
const BLKPARSE_REAL: &str = "\
  8,0    1        1     0.000000000   900  Q   W 223488 + 8 [my prog]
  8,0    1        2     0.000000500   900  R   W 223488 + 8 [0]
  8,0    1        3     0.000001000   900  Q  RA 100 + 256 [my prog]
  8,0    1        4     1.499999000   900  Q FWFS 64 + 1 [my prog]
  8,0    1        5     1.500000000   900  Q  FN [my prog]
  8,0    1        6     1.500000500   900  Q FWS [my prog]
  8,0    1        7     1.999999000   900  Q   D 2048 + 4096 [my prog]
  8,0    1        8     1.999999100   900  Q  DS 8192 + 4096 [my prog]
  8,0    1        9     2.099999000   900  Q  WM 0 + 8 [my prog]
  8,0    1       10     2.199999000   900  C   W 223488 + 8 [0]
CPU1 (raw):
 Reads Queued:           3,     2176KiB\t Writes Queued:           5,     2056KiB
 IO unplugs:             0        \t Timer unplugs:           0

Throughput (R/W): 0KiB/s / 1KiB/s
Events (raw): 10 entries
Skips: 2 forward (7 -   0.0%)
Input file raw.blktrace.1 added
";

const IOLOG_2: &str = "\
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
/srv/b datasync 0 0
/dev/sda close
/srv/b close
";

const IOLOG_3: &str = "\
fio version 3 iolog
16 /tmp/f add
107 /tmp/f open
113 /tmp/f read 61440 4096
276 /tmp/f write 774144 4096
20085 /tmp/f sync 774144 0
180333 /tmp/f close
";

/// Every operation as one line: nanoseconds, action, flags, sector and sectors.
fn listed(workload: &Workload) -> Vec<String> {
    let line = |operation: &cowbird_workload::Operation| {
        format!(
            "{} {:?} {} {} {}",
            operation.at_ns,
            operation.action,
            operation.flags.0,
            operation.extent.start.0,
            operation.extent.sectors
        )
    };
    workload.operations().iter().map(line).collect()
}

#[test]
fn blkparse_is_read_by_what_was_queued() {
    let workload = import(BLKPARSE.as_bytes()).expect("it is whole");
    let expected = [
        "0 Write 0 223490 8",
        "4000 Read 0 100 256",
        "1500000000 Write 7 64 1",
        "1500001000 Flush 4 0 0",
        "2000000000 Discard 1 2048 4096",
    ];
    assert_eq!(listed(&workload), expected);
    assert_eq!(workload.source(), "blkparse of device 8,0");
    assert_eq!(workload.doubts().len(), 1);
    assert!(workload.doubts()[0].contains("blktrace does"));
}

#[test]
fn what_blkparse_really_prints_is_read() {
    let workload = import(BLKPARSE_REAL.as_bytes()).expect("it is whole");
    let expected = [
        "0 Write 0 223488 8",
        "1000 Read 0 100 256",
        "1499999000 Write 7 64 1",
        "1500000000 Flush 4 0 0",
        "1500000500 Flush 5 0 0",
        "1999999000 Discard 0 2048 4096",
        "1999999100 Discard 1 8192 4096",
        "2099999000 Write 0 0 8",
    ];
    assert_eq!(listed(&workload), expected);
    assert!(workload.doubts()[1].contains("missed 2 entries"));
}

#[test]
fn iologs_are_read() {
    let workload = import(IOLOG_2.as_bytes()).expect("it is whole");
    let expected = [
        "0 Write 0 8 16",
        "250000 Write 0 4096 1", // behind the first file, whose last sector is 2048
        "250000 Read 0 2047 2",  // widened to whole sectors
        "250000 Discard 0 0 8",
        "250000 Flush 0 0 0",
    ];
    assert_eq!(listed(&workload), expected);
    assert!(workload.doubts().is_empty());

    let workload = import(IOLOG_3.as_bytes()).expect("it is whole");
    let expected = [
        "0 Read 0 120 8",
        "163000 Write 0 1512 8",
        "19972000 Flush 0 0 0",
    ];
    assert_eq!(listed(&workload), expected);
}

#[test]
fn an_iolog_without_its_end_is_doubted() {
    let end = IOLOG_3.find("180333").expect("it is there");
    let workload = import(&IOLOG_3.as_bytes()[..end]).expect("its lines are whole");
    assert!(workload.doubts()[0].contains("cut off"));
}

#[test]
fn files_are_recognised_by_their_content() {
    let mut builder = Builder::default();
    builder.push(0, Action::Write, Flags::SYNC, Extent::of_bytes(0, 512));
    let workload = builder.finish("x", Vec::new());
    let file = workload.encode();
    assert_eq!(recognise(&file), Some(Source::Workload));
    assert_eq!(import(&file), Ok(workload));
    assert_eq!(recognise(BLKPARSE.as_bytes()), Some(Source::Blkparse));
    assert_eq!(recognise(IOLOG_2.as_bytes()), Some(Source::Iolog));
    assert_eq!(recognise(b"CBTRACE\n..."), Some(Source::Trace));
    assert_eq!(import(b"CBTRACE\n..."), Err(ImportError::Trace));
    for other in ["", "\n", "hello\n", "8,0 is a device\n"] {
        assert_eq!(
            import(other.as_bytes()),
            Err(ImportError::Unknown),
            "{other:?}"
        );
    }
}

/// Goal: an input that is not intact is refused with the place and with what to do.
#[test]
fn broken_inputs_say_where_and_what_to_do() {
    let cases = [
        (BLKPARSE.replace("64 + 1", "64 + one"), "line 6"),
        (BLKPARSE.replace("1.500000000", "1.5"), "line 6"),
        (BLKPARSE.replacen("  Q  DS", "  Q", 1), "line 9"),
        (BLKPARSE.replace("  8,0    1", "  8,16   1"), "8,0 and 8,16"),
        (BLKPARSE.replace("  Q ", "  D "), "action Q"),
        (BLKPARSE.trim_end().to_owned(), "inside of line 12"),
        (IOLOG_2.replace("trim 0 4096", "trim 0"), "line 10"),
        (IOLOG_2.replace("trim", "shred"), "line 10"),
        (IOLOG_3.replace("version 3", "version 4"), "version 4"),
        (IOLOG_3.replace("113 /tmp", "/tmp"), "line 4"),
        (IOLOG_3[..100].to_owned(), "inside of line"),
        (IOLOG_3[..40].to_owned() + "\n", "line"),
        ("fio version 3 iolog\n0 f close\n".to_owned(), "read, write"),
    ];
    for (input, place) in cases {
        let error = import(input.as_bytes()).expect_err(place).to_string();
        assert!(error.contains(place), "{place}: {error}");
        let advice = [
            "again",
            "correct it",
            "keep the lines",
            "it needs",
            "let fio",
        ];
        assert!(
            advice.iter().any(|advice| error.contains(advice)),
            "{error}"
        );
    }
}

/// Goal: one command to the device, of which no sector is known, costs neither the import nor silence.
#[test]
fn packet_commands_are_left_out_and_counted() {
    let command = "  8,0    1        8     1.500002000   900  Q   R 252 (85 08 0e 00 d0 ..) [smartctl]\n\
                   \x20 8,0    1        9     1.500003000   900  Q  WS 512 [hdparm]\n";
    let text = BLKPARSE.replace("CPU1", &format!("{command}CPU1"));
    let workload = import(text.as_bytes()).expect("its other lines are as they must be");
    let without = import(BLKPARSE.as_bytes()).expect("it is whole");
    assert_eq!(workload.operations(), without.operations());
    let doubts = workload.doubts();
    assert!(
        doubts
            .iter()
            .any(|doubt| doubt.starts_with("2 packet commands")),
        "{doubts:?}"
    );
}

/// Goal: an import takes time by the length of the text. Method: 60,000 files, for which looking through all names for
/// each line took 25 s where this takes a tenth of one.
#[test]
fn many_files_are_imported_in_linear_time() {
    const FILES: usize = 60_000;
    let mut text = "fio version 3 iolog\n".to_owned();
    for file in 0..FILES {
        let name = format!("/srv/some/folder/of/a/mail/server/{file:06}");
        text += &format!("{file} {name} add\n{file} {name} open\n{file} {name} write 0 4096\n");
    }
    for file in 0..FILES {
        text += &format!("{FILES} /srv/some/folder/of/a/mail/server/{file:06} close\n");
    }
    let started = std::time::Instant::now();
    let workload = import(text.as_bytes()).expect("it is whole");
    let took = started.elapsed();
    assert_eq!(workload.operations().len(), FILES);
    assert!(took.as_secs() < 5, "it took {took:?}");
    let source = workload.source();
    assert!(source.ends_with("and 59992 more"), "{source}");
}
