use std::time::Duration;

use super::*;
use crate::fingerprint::Fingerprint;
use crate::record::{CompletedRecord, InFlightRecord};
use crate::secret::Secret;

fn stored(record: Record) -> Stored {
    let key = Key::new("tenant", "key").unwrap();
    Stored {
        digest: Secret::derive(b"secret").digest(&key),
        key: Some(key),
        record,
    }
}

fn in_flight() -> Record {
    let fingerprint = Fingerprint::builder()
        .part("method", "POST")
        .part("body", "{}")
        .build()
        .unwrap();
    Record::InFlight(InFlightRecord {
        fingerprint: Secret::derive(b"secret").seal(&fingerprint),
        token: 7,
        attempt: 2,
        started_at: Timestamp(1_750_000_000_000),
        lease_until: Timestamp(1_750_000_120_000),
        retention: Duration::from_secs(86_400),
    })
}

fn completed() -> Record {
    Record::Completed(CompletedRecord {
        fingerprint: Secret::derive(b"secret").seal(&Fingerprint::of("request")),
        token: 7,
        attempt: 1,
        completed_at: Timestamp(1_750_000_000_000),
        expires_at: Timestamp(1_750_086_400_000),
        reply: Reply::new(201, vec![0, 159, 146, 150])
            .with_header("set-cookie", "a")
            .with_header("set-cookie", vec![255])
            .with_trailer("grpc-status", "0"),
    })
}

fn heading(sequence: u64) -> Heading {
    Heading {
        sequence,
        written_at: Timestamp(5),
        prior: Some(sequence - 2),
    }
}

fn encoded(stored: &Stored, sequence: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_put(&mut out, heading(sequence), stored).unwrap();
    out
}

#[test]
fn every_record_comes_back_as_it_went_in() {
    for record in [in_flight(), completed()] {
        let with_text = stored(record);
        let without_text = Stored {
            key: None,
            ..with_text.clone()
        };
        for stored in [with_text, without_text] {
            let entry = decode_at(&encoded(&stored, 9), 9).unwrap();
            assert_eq!(entry.heading, heading(9));
            assert_eq!(entry.into_stored(), Some(stored));
        }
    }
}

#[test]
fn a_removal_comes_back_as_one() {
    let digest = stored(in_flight()).digest;
    let mut out = Vec::new();
    encode_removal(&mut out, heading(3), digest).unwrap();
    let entry = decode_at(&out, 3).unwrap();
    assert_eq!(entry.digest, digest);
    assert_eq!(entry.into_stored(), None);
}

#[test]
fn an_outline_says_what_the_whole_entry_says() {
    let removed = {
        let mut out = Vec::new();
        encode_removal(&mut out, heading(9), stored(in_flight()).digest).unwrap();
        out
    };
    let of = |record: Record| encoded(&stored(record), 9);
    for bytes in [of(in_flight()), of(completed()), removed] {
        let (whole, outline) = (decode(&bytes).unwrap(), outline_at(&bytes, 9).unwrap());
        assert_eq!(
            (outline.heading, outline.digest),
            (whole.heading, whole.digest)
        );
        let expected = match whole.into_stored().map(|stored| stored.record) {
            None => OutlineState::Removed,
            Some(record @ Record::Completed(_)) => OutlineState::Completed {
                ends_at: record.ends_at(),
            },
            Some(record @ Record::InFlight(_)) => OutlineState::InFlight {
                lease_until: Timestamp(1_750_000_120_000),
                ends_at: record.ends_at(),
            },
        };
        assert_eq!(outline.state, expected);
        assert!(outline_at(&bytes, 10).is_err());
        for length in 0..bytes.len() {
            assert!(outline_at(&bytes[..length], 9).is_err());
        }
    }
}

#[test]
fn a_prior_entry_is_kept_and_none_is_none() {
    for prior in [None, Some(1), Some(u64::MAX >> 3)] {
        let heading = Heading {
            sequence: u64::MAX >> 2,
            written_at: Timestamp(5),
            prior,
        };
        let mut out = Vec::new();
        encode_put(&mut out, heading, &stored(completed())).unwrap();
        assert_eq!(decode(&out).unwrap().heading, heading);
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_noticed() {
    let sound = encoded(&stored(completed()), 9);
    for at in 0..sound.len() * 8 {
        let mut damaged = sound.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        assert!(decode_at(&damaged, 9).is_err(), "bit {at}");
    }
    for length in 0..sound.len() {
        let error = decode_at(&sound[..length], 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "length {length}");
    }
}

#[test]
fn a_sound_entry_in_another_ones_place_is_corrupt() {
    let error = decode_at(&encoded(&stored(completed()), 9), 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn trailing_bytes_are_refused_though_the_checksum_fits() {
    let sound = encoded(&stored(completed()), 9);
    let mut longer = sound[..sound.len() - CHECKSUM_BYTES].to_vec();
    longer.push(0);
    let error = decode_at(&checked(&longer), 9).unwrap_err();
    assert!(error.to_string().contains("after its end"), "{error}");
}

#[test]
fn a_newer_version_is_unsupported_and_not_corrupt() {
    let error = decode_at(&checked(&[VERSION + 1, 1, 2, 3]), 9).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedFormat);
    let error = decode_at(&checked(&[0, 1, 2, 3]), 9).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_length_that_lies_is_an_error_and_allocates_nothing_of_that_size() {
    // Sequence 9, written at 5, no prior entry, a digest, and a key that claims 2^60 bytes.
    let mut body = vec![VERSION, 9, 5, 0, 32];
    body.extend_from_slice(&[0; 32]);
    body.extend_from_slice(&[1, 253]);
    body.extend_from_slice(&(1_u64 << 60).to_le_bytes());
    let error = decode_at(&checked(&body), 9).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_list_over_its_limit_is_refused_before_it_is_read() {
    let mut begun = vec![VERSION, 9, 5, 0, 32];
    begun.extend_from_slice(&[0; 32]);
    // No key's text.
    begun.push(0);
    let fingerprint = [&[1, 32][..], &[0; 32]].concat();
    // In flight, with 33 parts; completed without parts, with a status, kept, with 1,025 headers. Nothing follows.
    let parts = [&[0], &fingerprint[..], &[1, 33]].concat();
    let headers = [&[1], &fingerprint[..], &[0, 7, 1, 5, 6, 200, 1, 251, 1, 4]].concat();
    for (state, most) in [(parts, "at most 32"), (headers, "at most 1024")] {
        let error = decode(&checked(&[&begun[..], &state].concat())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(most), "{source}");
    }
}

#[test]
fn lists_at_their_limits_come_back_as_they_went_in() {
    let parts = (0..crate::limits::MAX_FINGERPRINT_PARTS)
        .fold(Fingerprint::builder(), |builder, number| {
            builder.part(format!("part {number}"), "")
        });
    let headers =
        (0..crate::limits::MAX_REPLY_HEADERS).fold(Reply::new(200, ""), |reply, number| {
            let reply = reply.with_header(format!("header-{number}"), "value");
            reply.with_trailer(format!("trailer-{number}"), "value")
        });
    let Record::Completed(record) = completed() else {
        unreachable!("it is completed");
    };
    let stored = stored(Record::Completed(CompletedRecord {
        fingerprint: Secret::derive(b"secret").seal(&parts.build().unwrap()),
        reply: headers,
        ..record
    }));
    let entry = decode_at(&encoded(&stored, 9), 9).unwrap();
    assert_eq!(entry.into_stored(), Some(stored));
}

#[test]
fn the_bytes_of_version_1_are_pinned() {
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex();
    assert_eq!(
        hash(&encoded(&stored(in_flight()), 9)).as_str(),
        "5d1e8b48717273e84c9bf7d24ceafdee39aca77048b480312639724a6b12734e"
    );
    assert_eq!(
        hash(&encoded(&stored(completed()), 9)).as_str(),
        "b8d0ece21aa8a61ec0f2f55cbe315503e249b7bc192076d95155eb1f2c8704ee"
    );
}

#[test]
fn values_go_through_a_reply_and_back() {
    let reply = Reply::encode(&vec![(1_u8, "one".to_owned())]).unwrap();
    assert_eq!(
        reply.decode::<Vec<(u8, String)>>().unwrap(),
        [(1, "one".to_owned())]
    );
    let wrong = reply.decode::<(u64, u64, u64, u64, u64, u64, u64)>();
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::Encoding);
    let trailing = reply.decode::<u8>();
    assert_eq!(trailing.unwrap_err().kind(), ErrorKind::Encoding);
}
