//! The kernel log as records, from `/dev/kmsg`.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_proto::message::{KernelRecord, Reply};
use rustix::fs::OFlags;

/// Text of one page of records; leaves room for the rest of the record below the frame limit.
const PAGE_TEXT_BYTES: usize = 256 << 10;

/// Longest record that the kernel gives (`CONSOLE_EXT_LOG_MAX` is 8192).
const RECORD_BYTES: usize = 16 << 10;

/// Records of the ring may be overwritten while they are read; each time the read fails once.
const MAX_OVERRUNS: usize = 1000;

/// One page of the log: the records after sequence number `after`, or from the start.
pub fn page(after: Option<u64>) -> GuestResult<Reply> {
    // A new descriptor starts at the oldest record.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open("/dev/kmsg")
        .context("open /dev/kmsg")?;
    let mut buffer = vec![0; RECORD_BYTES];
    let mut records = Vec::new();
    let mut text_bytes = 0;
    let mut overruns = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(count) => {
                let Some(record) = parse(&String::from_utf8_lossy(&buffer[..count])) else {
                    continue;
                };
                if after.is_some_and(|after| record.sequence <= after) {
                    continue;
                }
                text_bytes += record.text.len();
                records.push(record);
                if text_bytes > PAGE_TEXT_BYTES {
                    return Ok(Reply::KernelLog {
                        records,
                        complete: false,
                    });
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(Reply::KernelLog {
                    records,
                    complete: true,
                });
            }
            // EPIPE: the record was overwritten; the next read continues behind the gap.
            Err(error) if error.kind() == ErrorKind::BrokenPipe && overruns < MAX_OVERRUNS => {
                overruns += 1;
            }
            Err(error) => return Err(error).context("read /dev/kmsg"),
        }
    }
}

/// One record: `priority,sequence,time_us,flags[,...];text`, then lines of ` KEY=value`.
fn parse(raw: &str) -> Option<KernelRecord> {
    let (head, body) = raw.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u64 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let time_us = fields.next()?.parse().ok()?;
    let text = body.lines().next().unwrap_or_default().to_owned();
    Some(KernelRecord {
        sequence,
        level: (priority & 7) as u8,
        time_us,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_apart() {
        let record = parse("28,1042,7654321,-;cowbird: text; more\n SUBSYSTEM=block\n").unwrap();
        assert_eq!(
            record,
            KernelRecord {
                sequence: 1042,
                level: 4,
                time_us: 7_654_321,
                text: "cowbird: text; more".into()
            }
        );
        assert_eq!(parse("no record"), None);
    }
}
