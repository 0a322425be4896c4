//! Frames against arbitrary messages, arbitrary chunking and arbitrary damage.

use cowbird_proto::PROTOCOL_VERSION;
use cowbird_proto::frame::{self, Decoder, FrameError, HEADER_BYTES, MAX_PAYLOAD_BYTES};
use cowbird_proto::message::{
    Event, FromGuest, GuestError, KernelRecord, Reply, Request, RequestId, ToGuest, WorkloadId,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn message() -> impl Strategy<Value = FromGuest> {
    let id = any::<u64>().prop_map(RequestId);
    let records = vec(
        (any::<u64>(), 0..8_u8, any::<u64>(), ".*").prop_map(|(sequence, level, time_us, text)| {
            KernelRecord {
                sequence,
                level,
                time_us,
                text,
            }
        }),
        0..8,
    );
    let error =
        (".*", any::<Option<i32>>()).prop_map(|(message, errno)| GuestError { message, errno });
    prop_oneof![
        (id.clone(), ".*").prop_map(|(id, text)| FromGuest::Response {
            id,
            result: Ok(Reply::Text(text))
        }),
        (id.clone(), records, any::<bool>()).prop_map(|(id, records, complete)| {
            FromGuest::Response {
                id,
                result: Ok(Reply::KernelLog { records, complete }),
            }
        }),
        (id, error).prop_map(|(id, error)| FromGuest::Response {
            id,
            result: Err(error)
        }),
        any::<u64>().prop_map(|uptime_ms| FromGuest::Event(Event::Heartbeat { uptime_ms })),
    ]
}

/// Everything that a decoder gives until it wants more bytes.
fn drain(decoder: &mut Decoder) -> (Vec<FromGuest>, Vec<FrameError>) {
    let (mut messages, mut errors) = (Vec::new(), Vec::new());
    loop {
        match decoder.next_message() {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, errors),
            Err(error) => errors.push(error),
        }
    }
}

proptest! {
    /// Goal: messages arrive whole and in order however the stream is cut.
    #[test]
    fn messages_survive_any_chunking(
        messages in vec(message(), 1..12),
        cuts in vec(1..200_usize, 1..50),
    ) {
        let stream: Vec<u8> =
            messages.iter().flat_map(|message| frame::encode(message).unwrap()).collect();
        let mut decoder = Decoder::new();
        let mut received = Vec::new();
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            let (chunk, tail) = rest.split_at(rest.len().min(*cut));
            decoder.push(chunk);
            let (more, errors) = drain(&mut decoder);
            prop_assert!(errors.is_empty(), "{errors:?}");
            received.extend(more);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(received, messages);
    }

    /// Goal: one damaged byte is reported and costs at most the message that it hits (and, when the
    /// length grew, those inside the announced length); nothing wrong is ever delivered.
    #[test]
    fn damage_is_reported_and_the_stream_recovers(
        messages in vec(message(), 3..8),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let frames: Vec<Vec<u8>> =
            messages.iter().map(|message| frame::encode(message).unwrap()).collect();
        let mut stream = frames.concat();
        let at = at.index(stream.len() - frames[frames.len() - 1].len());
        stream[at] ^= flip;
        // Enough idle bytes behind it that an announced length inside the limit completes.
        stream.extend(std::iter::repeat_n(0, MAX_PAYLOAD_BYTES + HEADER_BYTES));
        let mut decoder = Decoder::new();
        decoder.push(&stream);
        let (received, errors) = drain(&mut decoder);
        // One for the damage, one for the idle bytes.
        prop_assert!(errors.len() >= 2, "{errors:?}");
        let damaged = frame_at(&frames, at);
        let expected: Vec<FromGuest> = messages
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != damaged)
            .map(|(_, message)| message.clone())
            .collect();
        prop_assert_eq!(received, expected);
    }

    /// Goal: no input panics or loops. Method: any bytes, salted with magics.
    #[test]
    fn any_bytes_are_survived(chunks in vec(
        prop_oneof![vec(any::<u8>(), 0..40), Just(b"CWB\x02".to_vec()), Just(b"CWB".to_vec())],
        0..40,
    )) {
        let mut decoder = Decoder::new();
        for chunk in chunks {
            decoder.push(&chunk);
            drain(&mut decoder);
        }
    }
}

fn frame_at(frames: &[Vec<u8>], at: usize) -> usize {
    let mut end = 0;
    frames
        .iter()
        .position(|frame| {
            end += frame.len();
            at < end
        })
        .expect("the byte is in one of the frames")
}

#[test]
fn a_message_over_the_limit_is_refused() {
    let text = "x".repeat(MAX_PAYLOAD_BYTES);
    let error = frame::encode(&Reply::Text(text)).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { length } if length > MAX_PAYLOAD_BYTES));
}

#[test]
fn another_version_is_named() {
    let request = ToGuest::Request {
        id: RequestId(1),
        request: Request::Ping,
    };
    let mut bytes = frame::encode(&request).unwrap();
    bytes[3..11].copy_from_slice(&200_u64.to_le_bytes());
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    let error = decoder.next_message::<ToGuest>().unwrap_err();
    assert_eq!(
        error,
        FrameError::Version {
            offset: 0,
            theirs: 200
        }
    );
}

/// Goal: the wire format does not drift unnoticed. Method: golden bytes of one frame; its version, and the checksum over it, are
/// those of the build.
#[test]
fn the_wire_format_is_pinned() {
    let event = FromGuest::Event(Event::WorkloadFailed {
        workload: WorkloadId(3),
        error: GuestError {
            message: "no".into(),
            errno: Some(28),
        },
    });
    let bytes = frame::encode(&event).unwrap();
    assert_eq!(bytes[..3], *b"CWB");
    assert_eq!(bytes[3..11], PROTOCOL_VERSION.to_le_bytes());
    assert_eq!(bytes[11..15], [0x08, 0x00, 0x00, 0x00]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[3..15]), &bytes[19..]);
    assert_eq!(bytes[15..19], checksum.to_le_bytes());
    assert_eq!(
        bytes[19..],
        [0x02, 0x05, 0x03, 0x02, 0x6e, 0x6f, 0x01, 0x38]
    );
}
