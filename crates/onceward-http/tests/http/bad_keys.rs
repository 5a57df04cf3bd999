//! Keys that are none: 400, and the handler isn't reached.

use onceward_http::profile::{KeySyntax, Profile};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::engines::SHARE;
use super::raw::Connection;
use super::servers::{KINDS, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_is_answered_with_400_and_the_handler_isnt_reached() {
    let too_long = "k".repeat(257);
    for kind in KINDS {
        let server = Server::start(kind, Profile::deck()).await;
        for key in ["", " ", "\t", "a\tb", "\u{80}", "a\u{9f}", &too_long] {
            let mut connection = Connection::open(server.address).await;
            let response = connection.post(key.as_bytes()).await.unwrap();
            assert_eq!(response.status, 400, "{key:?}");
        }
        for key in [&b"\xff"[..], b"caf\xe9", b"\xc3", b"\xed\xa0\x80"] {
            let mut connection = Connection::open(server.address).await;
            let response = connection.post(key).await.unwrap();
            assert_eq!(response.status, 400, "{key:?}");
            let body = String::from_utf8(response.body).unwrap();
            assert!(body.contains("it is not UTF-8 text"), "{body}");
        }
        for second in [&b"k"[..], b"other", b""] {
            let mut connection = Connection::open(server.address).await;
            let two = [b"k\r\nidempotency-key: ", second].concat();
            let response = connection.post(&two).await.unwrap();
            assert_eq!(response.status, 400);
        }
        assert_eq!(server.executed(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_on_a_method_that_takes_none_changes_nothing() {
    for kind in KINDS {
        let server = Server::start(kind, Profile::deck()).await;
        let mut connection = Connection::open(server.address).await;
        let get = b"GET /payments HTTP/1.1\r\nhost: localhost\r\nidempotency-key: \xff\r\n\r\n";
        connection.send(get).await.unwrap();
        assert_eq!(connection.response().await.unwrap().status, 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_isnt_in_the_published_format_gets_400() {
    let is_uuid = |key: &str| {
        key.len() == 36
            && key
                .bytes()
                .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
    };
    let builder = Profile::deck().to_builder().key_format("a UUID", is_uuid);
    let profile = builder.build().unwrap();
    for kind in KINDS {
        let server = Server::start(kind, profile.clone()).await;
        let mut connection = Connection::open(server.address).await;
        let refused = connection.post(b"1").await.unwrap();
        assert_eq!(refused.status, 400);
        assert!(
            String::from_utf8(refused.body)
                .unwrap()
                .contains("it is not a UUID")
        );
        let mut connection = Connection::open(server.address).await;
        let taken = connection
            .post(b"550e8400-e29b-41d4-a716-446655440000")
            .await
            .unwrap();
        assert_eq!(taken.status, 201);
        assert_eq!(server.executed(), 1);
    }
}

/// Values of every sort of bytes that doesn't end a header.
fn header_values() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => prop::sample::select(&br#""\ ;=,:?a1"#[..]),
        2 => 0x20_u8..=0x7e,
        1 => any::<u8>(),
    ];
    let bytes = prop::collection::vec(byte, 0..40);
    let quoted = bytes
        .clone()
        .prop_map(|inner| [b"\"", &inner[..], b"\""].concat());
    let text = "\\PC{0,300}".prop_map(String::into_bytes);
    prop_oneof![bytes, quoted, text].prop_map(|value| {
        let ends_the_header = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        value
            .into_iter()
            .filter(|byte| !ends_the_header(byte))
            .collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_header_holds_the_answer_is_201_or_400_and_nothing_panics() {
    const VALUES: u64 = 10_000 / SHARE;
    let lenient = Profile::ietf()
        .to_builder()
        .key_syntax(KeySyntax::StructuredStringOrBare);
    let profiles = [Profile::ietf(), lenient.build().unwrap(), Profile::stripe()];
    let mut runner = TestRunner::deterministic();
    let strategy = header_values();
    let (mut taken, mut refused) = (0, 0);
    for (profile, kind) in profiles
        .into_iter()
        .cycle()
        .zip(KINDS.into_iter().cycle())
        .take(6)
    {
        let server = Server::start(kind, profile).await;
        let mut connection = Connection::open(server.address).await;
        let mut accepted = 0;
        for _ in 0..=(VALUES / 6) {
            let value = strategy.new_tree(&mut runner).unwrap().current();
            let executed = server.executed();
            let Some(response) = connection.post(&value).await else {
                panic!("the server hung up over {value:?}");
            };
            match response.status {
                // A repeat of an earlier value is a replay.
                201 => accepted += 1,
                400 => assert_eq!(server.executed(), executed),
                other => panic!("{other} for {value:?}"),
            }
            refused += u64::from(response.status == 400);
            let closes = response.header("connection") == Some(b"close");
            if closes || response.header("content-type").is_none() {
                // The server's own 400 for bytes that are in no header.
                connection = Connection::open(server.address).await;
            }
        }
        assert!(server.executed() <= accepted);
        taken += accepted;
    }
    assert!(
        taken > VALUES / 10 && refused > VALUES / 10,
        "{taken} taken, {refused} refused"
    );
}
