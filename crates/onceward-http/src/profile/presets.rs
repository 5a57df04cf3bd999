//! The profiles of real APIs, row by row.

use http::Method;
use http::header::{HeaderName, HeaderValue};

use super::answer::{Answer, Refusal};
use super::builder::{ProfileBuilder, plain};
use super::key_syntax::KeySyntax;
use super::rules::Profile;

const REPLAYED: (HeaderName, HeaderValue) = (
    HeaderName::from_static("idempotent-replayed"),
    HeaderValue::from_static("true"),
);
/// Tells a client that reads no message that this isn't the first answer's body.
const NOT_RETAINED: (HeaderName, HeaderValue) = (
    HeaderName::from_static("idempotent-not-retained"),
    HeaderValue::from_static("true"),
);
/// Where the draft's problems are described.
const DRAFT: &str = "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07#section-2.7";

/// One row per refusal: status (0: the first answer's), gRPC's status, code, title, message.
type Row = (Refusal, u16, u32, &'static str, &'static str, &'static str);

/// What the presets share; where an API documents its own status, code or text, its preset says so.
const ROWS: [Row; 11] = [
    (
        Refusal::KeyMissing,
        400,
        3,
        "idempotency_key_missing",
        "Idempotency-Key is missing",
        "This operation requires an Idempotency-Key header.",
    ),
    (
        Refusal::KeyMalformed,
        400,
        3,
        "idempotency_key_invalid",
        "Idempotency-Key is malformed",
        "The Idempotency-Key is not valid: {detail}.",
    ),
    (
        Refusal::ScopeUnknown,
        401,
        16,
        "idempotency_scope_unknown",
        "Idempotency-Key has no owner",
        "The request doesn't say whose Idempotency-Key it is; authenticate it.",
    ),
    (
        Refusal::BodyTooLarge,
        413,
        11,
        "request_too_large",
        "Request is too large",
        "The body of a request with an Idempotency-Key is limited: {detail}.",
    ),
    (
        Refusal::BodyUnreadable,
        400,
        3,
        "request_incomplete",
        "Request is incomplete",
        "The request's body could not be read to its end.",
    ),
    (
        Refusal::Conflict,
        409,
        9,
        "idempotency_error",
        "Idempotency-Key is already used",
        "Idempotency key has already been used with different parameters.",
    ),
    (
        Refusal::InFlight,
        409,
        10,
        "idempotency_in_progress",
        "A request is outstanding for this Idempotency-Key",
        "A request with this Idempotency-Key is still being processed; {detail}.",
    ),
    (
        Refusal::Unavailable,
        503,
        14,
        "idempotency_unavailable",
        "Idempotency-Key can't be checked",
        "The request was not carried out, because its Idempotency-Key can't be checked at present.",
    ),
    (
        Refusal::NotRetained,
        0,
        6,
        "idempotency_answer_not_retained",
        "The first answer was not retained",
        "The request was carried out before ({detail}); the answer was too large, or took too long, to keep.",
    ),
    (
        Refusal::Interrupted,
        503,
        14,
        "request_interrupted",
        "The request was interrupted",
        "The server stopped before the request was carried out to its end; retry with the same Idempotency-Key.",
    ),
    (
        Refusal::ScopeFull,
        429,
        8,
        "idempotency_limit_reached",
        "Too many Idempotency-Keys are in use",
        "The request was not carried out, because too many Idempotency-Keys are in use; retry with the same one later.",
    ),
];

impl Profile {
    /// Deck's: a POST may carry a bare key of at most 256 characters; every answer is kept; another request
    /// with the key gets 409.
    ///
    /// Open in Deck's document, and decided here: what is kept, 409 with `retry-after` for a request that is
    /// still running, and `idempotent-replayed: true` on replays.
    pub fn deck() -> Self {
        let rows = errors_answers(ProfileBuilder::new(plain("deck")));
        done(rows.replay_mark(Some(REPLAYED)))
    }

    /// Deel's: POST and PATCH may carry a bare key of at most 64 characters; 2xx answers are kept, and
    /// others free their key at once; a request that is still running gets 429 with `retry-after`; a replay
    /// names the first request in `x-original-request-id`.
    ///
    /// Open in Deel's document, and decided here: 409, in the same shape, for another request with the key.
    pub fn deel() -> Self {
        let rows = errors_answers(ProfileBuilder::new(plain("deel")))
            .methods([Method::POST, Method::PATCH])
            .max_key_chars(64)
            .keep_successes()
            .original_request_id(Some(HeaderName::from_static("x-original-request-id")));
        let (_, _, grpc_status, code, _, message) = ROWS[Refusal::InFlight as usize];
        let in_flight = Answer::new(429)
            .errors("idempotency", code, message)
            .grpc_status(grpc_status)
            .retry_after(true);
        done(rows.answer(Refusal::InFlight, in_flight))
    }

    /// Stripe's: a POST may carry a bare key of at most 255 characters; every answer is kept once the handler has
    /// run, errors too; another request with the key gets 400 with the type `idempotency_error`, one that is
    /// still running 409 with the code `idempotency_key_in_use`; replays are marked
    /// `idempotent-replayed: true`.
    pub fn stripe() -> Self {
        let start = ProfileBuilder::new(plain("stripe"));
        let rows = ROWS.iter().fold(start, |builder, row| {
            let (refusal, status, grpc_status, code, _, message) = *row;
            let (status, code) = match refusal {
                Refusal::Conflict => (400, ""),
                Refusal::InFlight => (409, "idempotency_key_in_use"),
                _ => (status, code),
            };
            let answer = with_status(status)
                .error("idempotency_error", code, message)
                .grpc_status(grpc_status);
            builder.answer(refusal, waiting(refusal, answer))
        });
        done(rows.max_key_chars(255).replay_mark(Some(REPLAYED)))
    }

    /// The IETF draft's (draft-ietf-httpapi-idempotency-key-header-07): POST and PATCH carry a key, a
    /// structured-field String; a missing one gets 400, another request with the key 422, one that is still
    /// running 409, all as problem+json with the draft's titles; successes and errors are kept.
    ///
    /// The draft requires a key where 'the operation requires one': here, of each request with those methods,
    /// until [`require_key_where`](ProfileBuilder::require_key_where) or
    /// [`require_key(false)`](ProfileBuilder::require_key) says otherwise.
    /// [`KeySyntax::StructuredStringOrBare`] takes keys without quotes too. The draft states no length; at most
    /// 256 characters are taken here. It also asks for a published policy: say where with
    /// [`policy_url`](ProfileBuilder::policy_url).
    pub fn ietf() -> Self {
        let start = ProfileBuilder::new(plain("ietf"));
        let rows = ROWS.iter().fold(start, |builder, row| {
            let (refusal, status, grpc_status, _, title, message) = *row;
            let (status, message) = match refusal {
                Refusal::Conflict => (
                    422,
                    "The Idempotency-Key was used with another request before: {detail}.",
                ),
                _ => (status, message),
            };
            let answer = with_status(status)
                .problem(DRAFT, title, message)
                .grpc_status(grpc_status);
            builder.answer(refusal, waiting(refusal, answer))
        });
        let rows = rows
            .methods([Method::POST, Method::PATCH])
            .key_syntax(KeySyntax::StructuredString)
            .require_key(true);
        done(rows)
    }
}

/// The answers in Deck's shape, which Deel's share.
fn errors_answers(start: ProfileBuilder) -> ProfileBuilder {
    ROWS.iter().fold(start, |builder, row| {
        let (refusal, status, grpc_status, code, _, message) = *row;
        let answer = with_status(status)
            .errors("idempotency", code, message)
            .grpc_status(grpc_status);
        builder.answer(refusal, waiting(refusal, answer))
    })
}

fn with_status(status: u16) -> Answer {
    if status == 0 {
        let (name, value) = NOT_RETAINED;
        Answer::with_first_status().header(name, value)
    } else {
        Answer::new(status)
    }
}

/// Answers that a client should come back after say when.
fn waiting(refusal: Refusal, answer: Answer) -> Answer {
    match refusal {
        Refusal::InFlight | Refusal::Unavailable | Refusal::Interrupted | Refusal::ScopeFull => {
            answer.retry_after(true)
        }
        _ => answer,
    }
}

fn done(builder: ProfileBuilder) -> Profile {
    builder.build().expect("the presets are sound")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use onceward::{Conflict, Engine, ErrorKind, Fingerprint, Key, Outcome};

    use crate::profile::{Admission, Reason};

    /// Of a key that was used for another request, which differs in that part.
    fn conflict(part: Option<&'static str>) -> Conflict {
        let engine = Engine::builder().open_in_memory().unwrap();
        let key = Key::unscoped("key").unwrap();
        let request = |text: &str| match part {
            Some(part) => Fingerprint::builder().part(part, text).build().unwrap(),
            None => Fingerprint::of(text),
        };
        let guard = engine.begin(&key, &request("one")).unwrap();
        let Outcome::Conflict(conflict) = engine.begin(&key, &request("other")).unwrap() else {
            panic!("{guard:?} was of the same request");
        };
        conflict
    }

    #[test]
    fn the_rows_stand_in_the_order_of_the_refusals() {
        for (row, refusal) in ROWS.iter().zip(Refusal::ALL) {
            assert_eq!(row.0, refusal);
        }
        for (number, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, number);
        }
    }

    #[test]
    fn each_preset_answers_each_refusal_with_a_status_of_its_own_and_a_body() {
        for profile in [
            Profile::deck(),
            Profile::deel(),
            Profile::stripe(),
            Profile::ietf(),
        ] {
            let occasion = profile.occasion(&HeaderMap::new());
            for reason in [
                Reason::KeyMissing,
                Reason::ScopeUnknown,
                Reason::BodyTooLarge { max_bytes: 1 },
                Reason::BodyUnreadable,
                Reason::Conflict(conflict(None)),
                Reason::Unavailable(ErrorKind::Io),
                Reason::Unavailable(ErrorKind::ScopeFull),
                Reason::NotRetained { status: 201 },
                Reason::Interrupted,
            ] {
                let response = profile.refuse(&occasion, &reason);
                assert_ne!(
                    response.status(),
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "{reason:?}"
                );
                assert!(!response.body().body.is_empty());
                let text = String::from_utf8(response.body().body.to_vec()).unwrap();
                assert!(!text.contains("{detail}"), "{text}");
            }
        }
    }

    #[test]
    fn decks_mismatch_is_answered_to_the_letter() {
        let profile = Profile::deck();
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("req_a1b2\"c3"));
        let occasion = profile.occasion(&headers);
        let reason = Reason::Conflict(conflict(Some("body")));
        let response = profile.refuse(&occasion, &reason);
        assert_eq!(response.status(), 409);
        assert_eq!(
            response.body().body,
            r#"{"errors":[{"type":"idempotency","code":"idempotency_error","message":"Idempotency key has already been used with different parameters."}],"request_id":"req_a1b2\"c3"}"#
        );
    }

    #[test]
    fn keys_are_measured_in_characters() {
        for (profile, most) in [
            (Profile::deck(), 256),
            (Profile::deel(), 64),
            (Profile::stripe(), 255),
        ] {
            for (chars, is_key) in [(1, true), (most, true), (most + 1, false)] {
                let mut headers = HeaderMap::new();
                let key = "ü".repeat(chars);
                headers.insert(
                    "idempotency-key",
                    HeaderValue::from_bytes(key.as_bytes()).unwrap(),
                );
                let admission = profile.admit(&Method::POST, "/", &headers);
                assert_eq!(matches!(admission, Admission::Keyed(_)), is_key, "{chars}");
            }
        }
    }
}
