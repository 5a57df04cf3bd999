//! Whose key it is.

use std::fmt;

use http::{HeaderMap, HeaderName};
use onceward::{Engine, Key, Result};

use crate::profile::Reason;

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
    Credential(Vec<u8>),
    Everybody,
    Unknown,
}

impl Scope {
    /// The scope of this name: 1 to 1,024 bytes without control characters. It is kept as text, for
    /// operators; for a credential use [`credential`](Scope::credential).
    ///
    /// An invalid name is treated as [`unknown`](Scope::unknown).
    pub fn named(name: impl Into<String>) -> Self {
        Self(Owner::Named(name.into()))
    }

    /// The scope of a credential, such as an API key: a hash of it, keyed with the store's secret or pepper, so
    /// that the credential is never written down and can't be guessed from the files. Any length.
    ///
    /// Only for credentials that don't change: a client that comes back with a refreshed token is in another
    /// scope, where its key is new, and its retry runs again. Name the account then.
    pub fn credential(credential: impl Into<Vec<u8>>) -> Self {
        Self(Owner::Credential(credential.into()))
    }

    /// The [credential](Scope::credential) in a header, such as an API key in `authorization`;
    /// [unknown](Scope::unknown) if there is no such header, or more than one.
    pub fn header(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::credential(value.as_bytes()),
            _ => Self::unknown(),
        }
    }

    /// Says aloud that all callers share their keys, as [`Key::unscoped`] does.
    pub fn everybody() -> Self {
        Self(Owner::Everybody)
    }

    /// The request doesn't say whose key it is: it is refused, as
    /// [`Refusal::ScopeUnknown`](crate::profile::Refusal::ScopeUnknown).
    pub fn unknown() -> Self {
        Self(Owner::Unknown)
    }

    /// The key in this scope. The key has been checked before.
    pub(crate) fn key(&self, key: &str, engine: &Engine) -> Result<Key, Reason> {
        let key = match &self.0 {
            Owner::Named(name) => Key::new(name, key),
            Owner::Credential(credential) => Key::new(engine.scope_of(credential), key),
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
            Owner::Credential(_) => "Scope::credential(..)",
            Owner::Everybody => "Scope::everybody()",
            Owner::Unknown => "Scope::unknown()",
        })
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, HeaderValue};

    use super::*;

    fn engine() -> Engine {
        Engine::builder().open_in_memory().unwrap()
    }

    #[test]
    fn a_credential_is_not_in_its_scopes_name_and_each_store_has_another_one() {
        let key = |engine: &Engine| Scope::credential("canary").key("k", engine).unwrap();
        let (one, other) = (engine(), engine());
        assert_eq!(key(&one), key(&one));
        assert_ne!(key(&one), key(&other));
        assert!(!key(&one).scope().unwrap().contains("canary"));
    }

    #[test]
    fn a_header_that_is_missing_or_repeated_names_nobody() {
        let mut headers = HeaderMap::new();
        assert_eq!(Scope::header(&headers, &AUTHORIZATION), Scope::unknown());
        headers.append(AUTHORIZATION, HeaderValue::from_bytes(b"one\xff").unwrap());
        let one = Scope::header(&headers, &AUTHORIZATION);
        assert_eq!(one, Scope::credential(b"one\xff"));
        assert!(one.key("k", &engine()).is_ok());
        headers.append(AUTHORIZATION, HeaderValue::from_static("two"));
        assert_eq!(Scope::header(&headers, &AUTHORIZATION), Scope::unknown());
    }

    #[test]
    fn a_name_that_is_no_scopes_names_nobody() {
        for name in ["", "a\nb", &"x".repeat(1_025)] {
            assert_eq!(
                Scope::named(name).key("k", &engine()),
                Err(Reason::ScopeUnknown)
            );
        }
        assert_eq!(
            Scope::unknown().key("k", &engine()),
            Err(Reason::ScopeUnknown)
        );
        assert_eq!(
            Scope::everybody().key("k", &engine()).unwrap().scope(),
            None
        );
    }

    #[test]
    fn debug_shows_no_name() {
        let shown = format!("{:?}", Scope::named("canary"));
        assert!(!shown.contains("canary"), "{shown}");
    }
}
