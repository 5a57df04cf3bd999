//! What an HTTP API promises about its idempotency keys, as data: no framework, and no status code
//! anywhere else in the crate.
//!
//! A [`Profile`] says which methods take a key, what a key looks like, which answers are kept, and what
//! a client hears when its key is missing, malformed, used for another request or still running:
//!
//! | | [`deck`](Profile::deck) | [`deel`](Profile::deel) | [`stripe`](Profile::stripe) | [`ietf`](Profile::ietf) |
//! |---|---|---|---|---|
//! | methods | POST | POST, PATCH | POST | POST, PATCH |
//! | key | bare, ≤ 256 characters | bare, ≤ 64 | bare, ≤ 255 | `"…"`, a structured-field String, ≤ 256 |
//! | no key | passes through | passes through | passes through | 400 |
//! | kept | every answer | 2xx | every answer | every answer |
//! | another request with the key | 409 | 409 | 400 | 422 |
//! | still running | 409 | 429 | 409 | 409 |
//! | a replay is marked by | `idempotent-replayed: true` | `x-original-request-id` | `idempotent-replayed: true` | nothing |
//! | body of a refusal | `{"errors":[…],"request_id":…}` | the same | `{"error":{…}}` | problem+json (RFC 9457) |
//!
//! In all four a malformed key (empty, too long, with control characters, in several headers, not text) is
//! answered with 400, a request that is too large with 413, and a store that can't answer with 503; none of
//! these reaches the handler. A request that is still running and a store that can't answer come with
//! `retry-after`. An answer that was too large to keep is answered for with the first answer's status, a body that says so,
//! and `idempotent-not-retained: true`. Change any of it with [`Profile::to_builder`]:
//!
//! ```
//! use onceward_http::profile::{Answer, Profile, Refusal};
//!
//! let profile = Profile::deel()
//!     .to_builder()
//!     .require_key(true)
//!     .answer(
//!         Refusal::KeyMissing,
//!         Answer::new(400).errors("idempotency", "key_missing", "Send an Idempotency-Key."),
//!     )
//!     .build()?;
//! # Ok::<(), onceward::Error>(())
//! ```
//!
//! The [layers](crate) carry profiles out. For a server that none of them fits, a
//! profile has the steps as plain functions: [`admit`](Profile::admit) a request, [`refuse`](Profile::refuse) it,
//! make a [`reply`](Profile::reply) of an answer, and give it [again](Profile::replay):
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use onceward_http::profile::{Admission, Answered, Content, Profile, Reason};
//! use onceward::{Engine, Fingerprint, Key, Outcome};
//!
//! /// One request of the tenant's, and the answer's head and body.
//! fn handle(engine: &Engine, profile: &Profile, request: &Request<Bytes>) -> Response<Content> {
//!     let occasion = profile.occasion(request.headers());
//!     let refuse = |reason| profile.refuse(&occasion, &reason);
//!     let key = match profile.admit(request.method(), request.uri().path(), request.headers()) {
//!         Admission::Pass => return pay(request),
//!         Admission::Refused(reason) => return refuse(reason),
//!         Admission::Keyed(key) => Key::new("tenant", key),
//!     };
//!     let begun = key.and_then(|key| engine.begin(&key, &Fingerprint::of(request.body())));
//!     let guard = match begun {
//!         Ok(Outcome::Proceed(guard)) => guard,
//!         Ok(Outcome::Replay(reply)) => return profile.replay(&occasion, &reply),
//!         Ok(Outcome::Conflict(conflict)) => return refuse(Reason::Conflict(conflict)),
//!         Ok(Outcome::InFlight(in_flight)) => return refuse(Reason::InFlight(in_flight)),
//!         Err(error) => return refuse(Reason::Unavailable(error.kind())),
//!     };
//!     let (mut head, content) = pay(request).into_parts();
//!     profile.identify(&mut head.headers, &occasion);
//!     let answered = Answered::new(head.status, &head.headers, content.trailers.as_ref());
//!     let settled = if profile.keeps(&answered) {
//!         let reply = profile.reply(&occasion, &head, &content);
//!         guard.complete(reply).map_err(onceward::Error::from)
//!     } else {
//!         guard.release().map_err(onceward::Error::from)
//!     };
//!     if let Err(error) = settled {
//!         eprintln!("the answer isn't kept: {error}"); // it is true all the same
//!     }
//!     Response::from_parts(head, content)
//! }
//!
//! fn pay(_request: &Request<Bytes>) -> Response<Content> {
//!     Response::new(Content::new("paid", None))
//! }
//!
//! # let engine = Engine::builder().open_in_memory()?;
//! # let request = Request::post("/").header("idempotency-key", "k").body(Bytes::new()).unwrap();
//! # assert!(!handle(&engine, &Profile::deck(), &request).headers().contains_key("idempotent-replayed"));
//! # assert_eq!(handle(&engine, &Profile::deck(), &request).headers()["idempotent-replayed"], "true");
//! # Ok::<(), onceward::Error>(())
//! ```
//!
//! # Requests' ids
//!
//! Deck names the current request's id in its errors, and Deel the first request's id in a replay. The id is
//! the request's `x-request-id` header, which a layer in front may have set; if there is none, the profile
//! makes one. Answers to requests with a key carry it: a replay carries its own request's id, never the
//! first one's.

mod admission;
mod answer;
mod builder;
mod fields;
mod keep;
mod key_syntax;
mod occasion;
mod presets;
mod replay;
mod rules;
mod shape;

pub use admission::Admission;
pub use answer::{Answer, Reason, Refusal};
pub use builder::ProfileBuilder;
pub use keep::Answered;
pub use key_syntax::{KeyProblem, KeySyntax};
pub use occasion::Occasion;
pub use replay::Content;
pub use rules::Profile;
