//! Whose key it is.

use std::fmt;

use http::{HeaderMap, HeaderName};

use crate::error::Result;
use crate::http::Reason;
use crate::key::Key;

/// Whose key it is: what keeps two callers' equal keys apart.
///
/// A layer asks for a function that tells it for each request, because a layer that doesn't ask gives one
/// tenant another tenant's answer. Use what authentication has established, such as an account's id in
/// the request's extensions; the layer then has to stand behind authentication.
#[derive(Clone, PartialEq, Eq)]
pub struct Scope(Owner);

#[derive(Clone, PartialEq, Eq)]
enum Owner {
    Named(String),
    Everybody,
    Unknown,
}

impl Scope {
    /// The scope of this name: 1 to 1,024 bytes without control characters. It is kept as text, for
    /// operators; for a credential use [`digest`](Scope::digest).
    ///
    /// A name that is no scope's is as good as [`unknown`](Scope::unknown).
    pub fn named(name: impl Into<String>) -> Self {
        Self(Owner::Named(name.into()))
    }

    /// The scope of a credential, such as a bearer token: its BLAKE3 hash, so that the credential itself is
    /// never written down. Any length.
    pub fn digest(credential: impl AsRef<[u8]>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("onceward 2026 scope of a credential");
        hasher.update(credential.as_ref());
        Self(Owner::Named(hasher.finalize().to_hex().to_string()))
    }

    /// The [digest](Scope::digest) of a header's value; [unknown](Scope::unknown) if there is no such header, or
    /// more than one.
    pub fn header(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::digest(value.as_bytes()),
            _ => Self::unknown(),
        }
    }

    /// Says aloud that all callers share their keys, as [`Key::unscoped`] does.
    pub fn everybody() -> Self {
        Self(Owner::Everybody)
    }

    /// The request doesn't say whose key it is: it is refused, as
    /// [`Refusal::ScopeUnknown`](crate::http::Refusal::ScopeUnknown).
    pub fn unknown() -> Self {
        Self(Owner::Unknown)
    }

    /// The key in this scope. The key has been checked before.
    pub(super) fn key(&self, key: &str) -> Result<Key, Reason> {
        let key = match &self.0 {
            Owner::Named(name) => Key::new(name, key),
            Owner::Everybody => Key::unscoped(key),
            Owner::Unknown => return Err(Reason::ScopeUnknown),
        };
        key.map_err(|_| Reason::ScopeUnknown)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Owner::Named(_) => "Scope::named(..)",
            Owner::Everybody => "Scope::everybody()",
            Owner::Unknown => "Scope::unknown()",
        })
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, HeaderValue};

    use super::*;

    #[test]
    fn a_header_that_is_missing_or_repeated_names_nobody() {
        let mut headers = HeaderMap::new();
        assert_eq!(Scope::header(&headers, &AUTHORIZATION), Scope::unknown());
        headers.append(AUTHORIZATION, HeaderValue::from_bytes(b"one\xff").unwrap());
        let one = Scope::header(&headers, &AUTHORIZATION);
        assert_eq!(one, Scope::digest(b"one\xff"));
        assert!(one.key("k").is_ok());
        headers.append(AUTHORIZATION, HeaderValue::from_static("two"));
        assert_eq!(Scope::header(&headers, &AUTHORIZATION), Scope::unknown());
    }

    #[test]
    fn a_name_that_is_no_scopes_names_nobody() {
        for name in ["", "a\nb", &"x".repeat(1_025)] {
            assert_eq!(Scope::named(name).key("k"), Err(Reason::ScopeUnknown));
        }
        assert_eq!(Scope::unknown().key("k"), Err(Reason::ScopeUnknown));
        assert_eq!(Scope::everybody().key("k").unwrap().scope(), None);
    }

    #[test]
    fn debug_shows_no_name() {
        let shown = format!("{:?}", Scope::named("canary"));
        assert!(!shown.contains("canary"), "{shown}");
    }
}
