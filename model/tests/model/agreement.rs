//! The trace against the witness and the journal: a session that agrees, and the same session with one
//! thing wrong, for each thing that can be.

use std::collections::BTreeSet;

use crate::common::{LogBuilder, pattern};
use cowbird_model::{
    Agreement, AgreementInput, BoundaryMarker, Change, Epoch, JournalledWrite, Place, Print, Rule,
    SECTOR_BYTES, Sector, SectorRange, TracedBio, TracedDisk, TracedFlush, TracedInstant,
    TracedRequest, WitnessLog, check_agreement, check_instants, check_journal,
};
use xxhash_rust::xxh64::xxh64;

const MARK_SECTOR: u64 = 1024;
const HEADER_SECTOR: u64 = 4096;
const CLOCK_NS: u64 = 1000;

fn boundary_marker(text: u8) -> BoundaryMarker {
    BoundaryMarker {
        range: SectorRange::new(Sector(MARK_SECTOR), 8),
        content: vec![text; 8 * SECTOR_BYTES],
    }
}

/// All three logs of the same writes, one after the other.
#[derive(Clone)]
struct Session {
    now: u64,
    disk: TracedDisk,
    log: LogBuilder,
    instants: Vec<TracedInstant>,
    reported: BTreeSet<(u32, Epoch)>,
    journal: Vec<JournalledWrite>,
    pages_may_change: bool,
    fua_is_flush: bool,
}

impl Session {
    fn new() -> Self {
        Self {
            now: 10,
            disk: TracedDisk::default(),
            log: LogBuilder::new(),
            instants: Vec::new(),
            reported: BTreeSet::new(),
            journal: Vec::new(),
            pages_may_change: false,
            fua_is_flush: true,
        }
    }

    fn tick(&mut self) -> Place {
        self.now += 1;
        Place(self.now)
    }

    /// Fingerprints as the tracer makes them: block by block of the disk.
    fn prints(sector: u64, data: &[u8]) -> Vec<Print> {
        let end = sector + (data.len() / SECTOR_BYTES) as u64;
        let mut prints = Vec::new();
        let mut at = sector;
        while at < end {
            let next = (at / 8 + 1) * 8;
            let range = SectorRange::new(Sector(at), next.min(end) - at);
            let from = (at - sector) as usize * SECTOR_BYTES;
            let part = &data[from..from + range.bytes() as usize];
            prints.push(Print {
                range,
                xxh64: xxh64(part, 0),
            });
            at = next;
        }
        prints
    }

    fn bio(&mut self, change: Change, sector: u64, sectors: u64, data: &[u8]) {
        let queued = self.tick();
        self.disk.bios.push(TracedBio {
            queued,
            queued_ns: queued.0 * CLOCK_NS,
            change,
            range: SectorRange::new(Sector(sector), sectors),
            prints: Self::prints(sector, data),
        });
    }

    fn request(&mut self, change: Change, sector: u64, sectors: u64, fua: bool) {
        let (issued, completed) = (self.tick(), self.tick());
        self.disk.requests.push(TracedRequest {
            issued: Some(issued),
            completed: Some(completed),
            completed_ns: completed.0 * CLOCK_NS,
            change,
            range: SectorRange::new(Sector(sector), sectors),
            failed: false,
            fua,
        });
    }

    fn write(&mut self, sector: u64, data: &[u8]) {
        let sectors = (data.len() / SECTOR_BYTES) as u64;
        let issued_ns = self.now * CLOCK_NS;
        self.bio(Change::Write, sector, sectors, data);
        self.request(Change::Write, sector, sectors, false);
        self.log.write(sector, data);
        self.journal.push(JournalledWrite {
            range: SectorRange::new(Sector(sector), sectors),
            issued_ns,
            completed_ns: self.now * CLOCK_NS,
            name: format!("write of sector {sector}"),
        });
    }

    fn flush(&mut self) {
        let (issued, completed) = (Some(self.tick()), Some(self.tick()));
        self.disk.flushes.push(TracedFlush { issued, completed });
        self.log.flush();
    }

    fn instant(&mut self, epoch: u64) {
        let drained = self.tick();
        self.log.marker(HEADER_SECTOR, 64, epoch);
        let log = self.log.finish();
        let log = WitnessLog::parse(&log).expect("a log");
        let header = log.entries().last().expect("the header").data.to_vec();
        self.bio(Change::Write, HEADER_SECTOR, 8, &header);
        self.request(Change::Write, HEADER_SECTOR, 8, false);
        self.flush();
        let begun = self.tick();
        self.instants.push(TracedInstant {
            minor: 0,
            epoch: Epoch(epoch),
            drained,
            begun,
        });
        self.reported.insert((0, Epoch(epoch)));
    }

    /// What is in every test: all kinds of change, before, between and behind the marks.
    fn full() -> Self {
        let mut session = Self::new();
        session.log.write(2048, &pattern(2048, 8, 1)); // before the tracer was there
        session.write(MARK_SECTOR, &boundary_marker(b'b').content);
        session.write(2048, &pattern(2048, 8, 2));
        session.write(2051, &pattern(2051, 20, 3)); // off the grid
        session.flush();
        session.instant(1);
        session.write(2056, &pattern(2056, 8, 4));
        session.write(2056, &pattern(2056, 8, 5));
        session.zeroes(2100, 7);
        session.discard(2200, 24);
        session.merged();
        session.split();
        session.fua();
        session.write(MARK_SECTOR, &boundary_marker(b'e').content);
        session.log.write(2048, &pattern(2048, 8, 6)); // behind its end
        session
    }

    fn zeroes(&mut self, sector: u64, sectors: u64) {
        self.bio(Change::Zeroes, sector, sectors, &[]);
        self.request(Change::Zeroes, sector, sectors, false);
        let zeros = vec![0; sectors as usize * SECTOR_BYTES];
        self.log.write(sector, &zeros);
    }

    fn discard(&mut self, sector: u64, sectors: u64) {
        self.bio(Change::Discard, sector, sectors, &[]);
        self.request(Change::Discard, sector, sectors, false);
        self.log.discard(sector, sectors);
    }

    /// Two bios that meet inside a block become one entry, as QEMU makes of neighbours.
    fn merged(&mut self) {
        let data = pattern(2300, 12, 7);
        let (front, back) = data.split_at(5 * SECTOR_BYTES);
        self.bio(Change::Write, 2300, 5, front);
        self.bio(Change::Write, 2305, 7, back);
        self.request(Change::Write, 2300, 12, false);
        self.log.write(2300, &data);
    }

    /// One bio becomes two requests and two entries that meet inside a block.
    fn split(&mut self) {
        let data = pattern(2400, 16, 8);
        let (front, back) = data.split_at(3 * SECTOR_BYTES);
        self.bio(Change::Write, 2400, 16, &data);
        self.request(Change::Write, 2400, 3, false);
        self.request(Change::Write, 2403, 13, false);
        self.log.write(2400, front).write(2403, back);
    }

    fn fua(&mut self) {
        let data = pattern(2500, 8, 9);
        self.bio(Change::Write, 2500, 8, &data);
        self.request(Change::Write, 2500, 8, true);
        self.log.write(2500, &data).flush();
        self.write(2508, &pattern(2508, 4, 10));
    }

    fn check(&self) -> Agreement {
        self.check_with(&self.log.finish())
    }

    fn check_with(&self, log: &[u8]) -> Agreement {
        let log = WitnessLog::parse(log).expect("a log");
        let (begin, end) = (boundary_marker(b'b'), boundary_marker(b'e'));
        let input = AgreementInput {
            traced: &self.disk,
            log: &log,
            begin: &begin,
            end: &end,
            pages_may_change: self.pages_may_change,
            direct: &self.journal,
            fua_is_flush: self.fua_is_flush,
        };
        let (mut agreement, compared) = match check_agreement(&input) {
            Ok(both) => both,
            Err(agreement) => return agreement,
        };
        let headers = compared.new_headers(&[], &log);
        agreement.append(check_instants(&self.instants, &headers, &self.reported));
        agreement.append(check_journal(&self.disk, &compared, &self.journal));
        agreement
    }
}

#[track_caller]
fn assert_contradicts(session: &Session, rule: Rule, what: &str) {
    let agreement = session.check();
    assert!(
        agreement.contradictions.iter().any(|c| c.rule == rule),
        "{what}: {:?}",
        agreement.contradictions
    );
}

#[test]
fn a_session_agrees_and_everything_is_compared() {
    let agreement = Session::full().check();
    assert_eq!(agreement.contradictions, [], "{agreement:?}");
    assert!(agreement.contents > 20, "{agreement:?}");
    assert_eq!(
        (agreement.counted, agreement.flushes),
        (0, 3),
        "{agreement:?}"
    );
    assert_eq!(
        (agreement.instants, agreement.journalled),
        (1, 5),
        "{agreement:?}"
    );
}

/// Goal: no bio can be missing, be elsewhere or have another content without being noticed.
/// Method: each bio between the marks in turn is dropped, moved by a sector, and changed in each print.
#[test]
fn each_bio_matters() {
    let whole = Session::full();
    let inner = 1..whole.disk.bios.len() - 1;
    for at in inner {
        let mut session = whole.clone();
        session.disk.bios.remove(at);
        assert_contradicts(&session, Rule::Contents, &format!("bio {at} dropped"));

        let mut session = whole.clone();
        let bio = &mut session.disk.bios[at];
        bio.range.start.0 += 1;
        bio.prints
            .iter_mut()
            .for_each(|print| print.range.start.0 += 1);
        assert_contradicts(&session, Rule::Contents, &format!("bio {at} shifted"));

        for print in 0..whole.disk.bios[at].prints.len() {
            let mut session = whole.clone();
            session.disk.bios[at].prints[print].xxh64 ^= 1;
            assert_contradicts(
                &session,
                Rule::Contents,
                &format!("print {print} of bio {at}"),
            );
        }
    }
}

#[test]
fn each_request_matters() {
    let whole = Session::full();
    for at in 1..whole.disk.requests.len() - 1 {
        if whole.disk.requests[at].change == Change::Discard {
            continue; // may have several ranges, of which the trace knows the first
        }
        let mut session = whole.clone();
        session.disk.requests.remove(at);
        assert_contradicts(&session, Rule::Requests, &format!("request {at} dropped"));
        let mut session = whole.clone();
        session.disk.requests[at].range.start.0 += 1;
        assert_contradicts(&session, Rule::Requests, &format!("request {at} shifted"));
    }
}

/// Goal: the witness cannot lack anything either, nor have it changed.
/// Method: each entry between the marks in turn is left out, and each that has data is changed.
#[test]
fn each_entry_matters() {
    let whole = Session::full();
    let bytes = whole.log.finish();
    let log = WitnessLog::parse(&bytes).expect("a log");
    for without in 2..log.entries().len() - 2 {
        let mut shorter = LogBuilder::new();
        let mut changed = LogBuilder::new();
        for entry in log.entries() {
            let mut data = entry.data.to_vec();
            let flags = match entry.kind {
                cowbird_model::EntryKind::Discard => 4,
                cowbird_model::EntryKind::Flush => 1,
                _ => 0,
            };
            if entry.index.0 as usize != without {
                shorter.raw(entry.sector.0, entry.sectors, flags, &data);
            } else if let Some(byte) = data.last_mut() {
                *byte ^= 1;
            }
            changed.raw(entry.sector.0, entry.sectors, flags, &data);
        }
        let agreement = whole.check_with(&shorter.finish());
        assert!(agreement.contradicted() > 0, "entry {without} left out");
        if !log.entries()[without].data.is_empty() {
            let agreement = whole.check_with(&changed.finish());
            assert!(agreement.contradicted() > 0, "entry {without} changed");
        }
    }
}

#[test]
fn each_flush_matters() {
    let whole = Session::full();
    for at in 0..whole.disk.flushes.len() {
        let mut session = whole.clone();
        session.disk.flushes.remove(at);
        assert_contradicts(&session, Rule::Flushes, &format!("flush {at} dropped"));
    }
    let mut session = whole.clone();
    session
        .disk
        .requests
        .iter_mut()
        .for_each(|request| request.fua = false);
    assert_contradicts(&session, Rule::Flushes, "no FUA");
}

#[test]
fn a_flush_without_writes_since_the_last_one_needs_no_entry() {
    let mut session = Session::full();
    let at = session.disk.flushes[0];
    session.disk.flushes.push(at);
    assert_eq!(session.check().contradictions, []);
}

#[test]
fn instants_are_compared_with_headers_and_with_the_control_tool() {
    let whole = Session::full();
    let mut session = whole.clone();
    session.instants[0].epoch = Epoch(2);
    assert_contradicts(&session, Rule::Instants, "another epoch");
    let mut session = whole.clone();
    session.instants.clear();
    assert_contradicts(&session, Rule::Instants, "no beginning");
    let mut session = whole.clone();
    session.reported.clear();
    assert_contradicts(&session, Rule::Instants, "not reported");
    let mut session = whole.clone();
    session.instants[0].begun = session.instants[0].drained;
    assert_contradicts(&session, Rule::Instants, "begun before its header");
}

#[test]
fn the_journal_is_compared_sector_by_sector() {
    let whole = Session::full();
    for at in 1..whole.journal.len() - 1 {
        let mut session = whole.clone();
        session.journal[at].range.start.0 += 1 << 20;
        assert_contradicts(&session, Rule::Journal, &format!("write {at} elsewhere"));
        let mut session = whole.clone();
        session.journal[at].completed_ns = session.journal[at].issued_ns;
        assert_contradicts(
            &session,
            Rule::Journal,
            &format!("write {at} complete too early"),
        );
    }
}

#[test]
fn without_a_mark_nothing_is_compared() {
    for at in [0, Session::full().disk.bios.len() - 1] {
        let mut session = Session::full();
        session.disk.bios.remove(at);
        let agreement = session.check();
        assert_eq!(agreement.contradictions[0].rule, Rule::BoundaryMarker);
        assert_eq!(agreement.contents, 0);
    }
}

/// Goal: what is under way at a mark may be on either side of it in either log.
/// Method: a write queued before the mark at the beginning whose entry is behind it, and the reverse.
#[test]
fn what_is_under_way_at_a_mark_may_be_on_either_side() {
    for (early_entry, early_bio) in [(true, true), (true, false), (false, true), (false, false)] {
        let data = pattern(3000, 8, 1);
        let mut session = Session::new();
        if early_entry {
            session.log.write(3000, &data);
        }
        if early_bio {
            session.bio(Change::Write, 3000, 8, &data);
        }
        let issued = early_bio.then(|| session.tick());
        session.write(MARK_SECTOR, &boundary_marker(b'b').content);
        if !early_entry {
            session.log.write(3000, &data);
        }
        session.request(Change::Write, 3000, 8, false);
        session.disk.requests[1].issued = issued;
        session.write(MARK_SECTOR, &boundary_marker(b'e').content);
        assert_eq!(
            session.check().contradictions,
            [],
            "{early_entry} {early_bio}"
        );
    }
}

/// Goal: writes that were in flight together at one block are matched whatever their order in the log.
#[test]
fn overlapping_writes_may_be_in_either_order() {
    let (one, two) = (pattern(3000, 8, 1), pattern(3000, 8, 2));
    for first in [&one, &two] {
        let mut session = Session::new();
        session.write(MARK_SECTOR, &boundary_marker(b'b').content);
        session.bio(Change::Write, 3000, 8, &one);
        session.bio(Change::Write, 3000, 8, &two);
        session.request(Change::Write, 3000, 8, false);
        session.request(Change::Write, 3000, 8, false);
        let second = if first == &one { &two } else { &one };
        session.log.write(3000, first).write(3000, second);
        session.write(MARK_SECTOR, &boundary_marker(b'e').content);
        assert_eq!(session.check().contradictions, []);
    }
}

/// Goal: where pages may change on their way, a write may have another content, and still not be missing.
#[test]
fn a_page_that_changes_on_its_way_is_counted() {
    let mut session = Session::full();
    session.pages_may_change = true;
    let whole = session.check();
    assert_eq!((whole.changed, whole.contradictions), (0, Vec::new()));
    session.disk.bios[1].prints[0].xxh64 ^= 1;
    assert_contradicts(
        &session,
        Rule::Contents,
        "a direct write, which nobody changes",
    );
    session.journal.clear();
    let agreement = session.check();
    assert_eq!(
        (agreement.changed, agreement.contradictions),
        (1, Vec::new())
    );
    session.disk.bios.remove(1);
    assert_contradicts(&session, Rule::Contents, "a write that is missing");
}

/// Goal: a disk that ignores FUA is not asked for its flushes, and no other is excused.
#[test]
fn fua_is_no_flush_where_the_disk_ignores_it() {
    let mut session = Session::full();
    let bytes = session.log.finish();
    let log = WitnessLog::parse(&bytes).expect("a log");
    let mut without = LogBuilder::new();
    let flush = cowbird_model::EntryKind::Flush;
    let of_fua = log.entries().iter().rposition(|entry| entry.kind == flush);
    for entry in log.entries() {
        let flags = match entry.kind {
            cowbird_model::EntryKind::Discard => 4,
            cowbird_model::EntryKind::Flush => 1,
            _ => 0,
        };
        if Some(entry.index.0 as usize) != of_fua {
            without.raw(entry.sector.0, entry.sectors, flags, entry.data);
        }
    }
    let without = without.finish();
    assert_eq!(session.check_with(&without).contradicted(), 1);
    session.fua_is_flush = false;
    assert_eq!(session.check_with(&without).contradictions, []);
}

#[test]
fn a_write_that_failed_may_be_there_or_not() {
    for there in [true, false] {
        let data = pattern(3000, 8, 1);
        let mut session = Session::new();
        session.write(MARK_SECTOR, &boundary_marker(b'b').content);
        session.bio(Change::Write, 3000, 8, &data);
        session.request(Change::Write, 3000, 8, false);
        session.disk.requests.last_mut().expect("just made").failed = true;
        if there {
            session.log.write(3000, &data);
        }
        session.write(MARK_SECTOR, &boundary_marker(b'e').content);
        assert_eq!(session.check().contradictions, []);
    }
}
