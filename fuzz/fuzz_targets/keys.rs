//! Keys and the headers that carry them: the rules are held against a few lines of their own, what a profile admits
//! the engine takes, and no header of a request or of a kept reply makes anything panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onceward::limits::{MAX_KEY_BYTES, MAX_SCOPE_BYTES};
use onceward::{ErrorKind, Key, Reply};
use onceward_http::http::header::{HeaderName, HeaderValue};
use onceward_http::http::{HeaderMap, Method, Response};
use onceward_http::profile::{
    Admission, Answered, Content, KeyProblem, KeySyntax, Profile, Reason,
};

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    scope: String,
    key: String,
    values: Vec<Vec<u8>>,
    headers: Vec<(Header, Vec<u8>)>,
    fields: Vec<(String, Vec<u8>)>,
    status: u16,
    chars: u16,
    /// How many characters a key has that is the only one, and `key` again and again.
    long: u16,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Header {
    RequestId,
    ContentType,
    Accept,
    GrpcStatus,
    Other(String),
}

impl Header {
    fn name(&self) -> Option<HeaderName> {
        let name = match self {
            Self::RequestId => "x-request-id",
            Self::ContentType => "content-type",
            Self::Accept => "accept",
            Self::GrpcStatus => "grpc-status",
            Self::Other(name) => name,
        };
        HeaderName::from_bytes(name.as_bytes()).ok()
    }
}

/// Whether a text may be a key, or a scope: Unicode's category Cc is U+0000 to U+001F and U+007F to U+009F.
fn is_valid(text: &str, most: usize) -> bool {
    let is_control = |char: char| matches!(u32::from(char), 0..=0x1f | 0x7f..=0x9f);
    !text.is_empty() && text.len() <= most && !text.chars().any(is_control)
}

fn keys(scope: &str, text: &str) {
    let is_key = is_valid(text, MAX_KEY_BYTES);
    let (scoped, unscoped) = (Key::new(scope, text), Key::unscoped(text));
    assert_eq!(scoped.is_ok(), is_key && is_valid(scope, MAX_SCOPE_BYTES));
    assert_eq!(unscoped.is_ok(), is_key);
    for error in [scoped.as_ref().err(), unscoped.as_ref().err()]
        .into_iter()
        .flatten()
    {
        assert_eq!(error.kind(), ErrorKind::InvalidKey);
    }
    let (Ok(scoped), Ok(unscoped)) = (scoped, unscoped) else {
        return;
    };
    assert_eq!((scoped.scope(), scoped.key()), (Some(scope), text));
    assert_eq!((unscoped.scope(), unscoped.key()), (None, text));
    assert_ne!(scoped, unscoped);
    assert_ne!(scoped.downstream(""), unscoped.downstream(""));
    // The same bytes, divided elsewhere.
    let whole = format!("{scope}{text}");
    for (at, _) in whole.char_indices().skip(1).take(64) {
        if let Ok(other) = Key::new(&whole[..at], &whole[at..]) {
            assert_eq!(other == scoped, at == scope.len());
            assert_eq!(
                other.downstream("step") == scoped.downstream("step"),
                other == scoped
            );
        }
    }
}

fn quoted(key: &str) -> String {
    format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What a structured-field String must be for this to be what was read from it (RFC 9651, section 3.3.3).
fn is_written(key: &str, value: &[u8]) -> bool {
    let Some(value) = std::str::from_utf8(value)
        .ok()
        .map(|value| value.trim_start_matches(' '))
    else {
        return false;
    };
    let is_printable = key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let rest = value.strip_prefix(&quoted(key));
    is_printable
        && rest.is_some_and(|rest| rest.starts_with(';') || rest.trim_matches(' ').is_empty())
}

fn keyed(values: &[&[u8]]) -> HeaderMap {
    let values = values
        .iter()
        .filter_map(|value| HeaderValue::from_bytes(value).ok());
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append("idempotency-key", value);
    }
    headers
}

fn admission(profile: &Profile, syntax: KeySyntax, headers: &HeaderMap) {
    assert_eq!(profile.admit(&Method::GET, "/", headers), Admission::Pass);
    let values: Vec<&[u8]> = headers
        .get_all("idempotency-key")
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let admission = profile.admit(&Method::POST, "/", headers);
    match (&admission, &values[..]) {
        (Admission::Keyed(key), [value]) => {
            Key::new("scope", key).expect("what is admitted is a key");
            let is_quoted = match syntax {
                KeySyntax::Bare => false,
                KeySyntax::StructuredString => true,
                _ => value.starts_with(b"\""),
            };
            match is_quoted {
                true => assert!(is_written(key, value)),
                false => assert_eq!(key.as_bytes(), *value),
            }
        }
        (Admission::Keyed(_), _) => panic!("one header has one key"),
        (Admission::Pass, values) => assert!(values.is_empty()),
        (Admission::Refused(Reason::KeyMissing), values) => assert!(values.is_empty()),
        (Admission::Refused(Reason::KeyMalformed(KeyProblem::Repeated)), values) => {
            assert!(values.len() > 1);
        }
        (Admission::Refused(reason), values) => {
            assert!(matches!(reason, Reason::KeyMalformed(_)) && values.len() == 1);
            if syntax == KeySyntax::Bare {
                let is_key = std::str::from_utf8(values[0]).is_ok_and(|key| is_valid(key, 64));
                assert!(!is_key, "a valid key is refused");
            }
        }
    }
    let occasion = profile.occasion(headers);
    if let Admission::Refused(reason) = admission {
        let answer = profile.refuse(&occasion, &reason);
        assert!(answer.status().is_client_error());
    }
}

/// A key that can be written as a structured-field String is read as it was written.
fn written(profile: &Profile, key: &str) {
    let value = quoted(key);
    let headers = keyed(&[value.as_bytes()]);
    let is_printable = key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if is_printable && is_valid(key, 64) {
        let admission = profile.admit(&Method::POST, "/", &headers);
        assert_eq!(admission, Admission::Keyed(key.into()));
    }
}

/// What a handler answers, and what is kept of it, whatever its fields are.
fn answers(profile: &Profile, headers: &HeaderMap, input: &Input) {
    let occasion = profile.occasion(headers);
    let kept =
        input
            .fields
            .iter()
            .fold(Reply::new(input.status, "body"), |reply, (name, value)| {
                let reply = reply.with_header(name.clone(), value.clone());
                reply.with_trailer(name.clone(), value.clone())
            });
    let again = profile.replay(&occasion, &kept);
    let (head, content) = again.into_parts();
    let answered = Answered::new(head.status, &head.headers, content.trailers.as_ref());
    let _ = (
        profile.keeps(&answered),
        profile.decides_by_trailers(&head.headers),
    );
    let reply = profile.reply(&occasion, &head, &content);
    assert_eq!(reply.body(), &content.body);
    assert_eq!(reply.status(), head.status.as_u16());
    let replayed: Response<Content> = profile.replay(&occasion, &reply);
    assert_eq!(replayed.body().body, reply.body());
    drop(profile.replay(&occasion, &profile.note(&occasion, &head)));
}

fuzz_target!(|input: Input| {
    keys(&input.scope, &input.key);
    let long: String = match input.values.is_empty() {
        true => input
            .key
            .chars()
            .cycle()
            .take(usize::from(input.long) % 1_100)
            .collect(),
        false => String::new(),
    };
    keys(&input.scope, &long);
    let mut values: Vec<&[u8]> = input.values.iter().take(3).map(Vec::as_slice).collect();
    if !long.is_empty() {
        values.push(long.as_bytes());
    }
    let mut headers = keyed(&values);
    for (name, value) in &input.headers {
        if let (Some(name), Ok(value)) = (name.name(), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let lenient = Profile::builder()
        .key_syntax(KeySyntax::StructuredStringOrBare)
        .max_key_chars(64 + usize::from(input.chars) % 961)
        .require_key(true)
        .build();
    let lenient = lenient.expect("a valid profile");
    let profiles = [
        (Profile::deck(), KeySyntax::Bare),
        (Profile::deel(), KeySyntax::Bare),
        (Profile::stripe(), KeySyntax::Bare),
        (Profile::ietf(), KeySyntax::StructuredString),
        (lenient, KeySyntax::StructuredStringOrBare),
    ];
    for (profile, syntax) in &profiles {
        admission(profile, *syntax, &headers);
        if *syntax != KeySyntax::Bare {
            written(profile, &input.key);
        }
        answers(profile, &headers, &input);
    }
});
