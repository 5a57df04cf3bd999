//! Which of an answer's fields a retry gets.

use http::header::{self, HeaderMap, HeaderName};

/// Fields that belong to one connection (RFC 9110, section 7.6.1) and are never kept.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Fields that a retry doesn't get unless the user says so: they are of one moment or carry credentials.
static DROPPED_BY_DEFAULT: [HeaderName; 12] = [
    header::SET_COOKIE,
    HeaderName::from_static("set-cookie2"),
    header::DATE,
    header::AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("authentication-info"),
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-access-token"),
    HeaderName::from_static("x-csrf-token"),
    HeaderName::from_static("x-xsrf-token"),
    HeaderName::from_static("x-amz-security-token"),
];

/// Fields that describe the body, which a note of an answer that isn't kept doesn't have.
static OF_THE_BODY: [HeaderName; 15] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_RANGE,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LOCATION,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
    header::TRAILER,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// The fields that a profile leaves out of what it keeps.
#[derive(Clone, Debug)]
pub(super) struct FieldPolicy {
    dropped: Vec<HeaderName>,
}

impl Default for FieldPolicy {
    fn default() -> Self {
        Self {
            dropped: DROPPED_BY_DEFAULT.to_vec(),
        }
    }
}

impl FieldPolicy {
    pub(super) fn drop(&mut self, name: HeaderName) {
        if !self.dropped.contains(&name) {
            self.dropped.push(name);
        }
    }

    pub(super) fn keep(&mut self, name: HeaderName) {
        let kept = name;
        self.dropped.retain(|dropped| *dropped != kept);
    }

    /// The fields of `all` that a retry gets, in order.
    pub(super) fn kept<'h>(
        &'h self,
        all: &'h HeaderMap,
    ) -> impl Iterator<Item = (&'h HeaderName, &'h http::HeaderValue)> {
        all.iter().filter(move |(name, _)| {
            !HOP_BY_HOP.contains(name) && !self.dropped.contains(name) && !is_named(all, name)
        })
    }
}

pub(super) fn is_of_the_body(name: &HeaderName) -> bool {
    OF_THE_BODY.contains(name)
}

/// Whether a `connection` field makes the field of this name one of the connection's own.
fn is_named(all: &HeaderMap, name: &HeaderName) -> bool {
    let values = all.get_all(header::CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|named| named.trim().eq_ignore_ascii_case(name.as_str()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn kept(policy: &FieldPolicy, names: &[&'static str]) -> Vec<String> {
        let mut all = HeaderMap::new();
        for name in names {
            all.append(*name, HeaderValue::from_static("x-private"));
        }
        let kept = policy.kept(&all);
        kept.map(|(name, _)| name.as_str().to_owned()).collect()
    }

    #[test]
    fn fields_of_the_connection_are_never_kept() {
        let mut policy = FieldPolicy::default();
        for name in &HOP_BY_HOP {
            policy.keep(name.clone());
            assert_eq!(kept(&policy, &["location"]), ["location"]);
            let names = [
                Box::leak(name.as_str().to_owned().into_boxed_str()),
                "location",
            ];
            assert_eq!(kept(&policy, &names), ["location"]);
        }
        assert_eq!(
            kept(&policy, &["connection", "x-private", "location"]),
            ["location"]
        );
    }

    #[test]
    fn credentials_cookies_and_dates_are_kept_only_on_request() {
        let mut policy = FieldPolicy::default();
        let names = [
            "set-cookie",
            "date",
            "authorization",
            "x-auth-token",
            "location",
        ];
        assert_eq!(kept(&policy, &names), ["location"]);
        policy.keep(header::SET_COOKIE);
        policy.drop(header::LOCATION);
        assert_eq!(kept(&policy, &names), ["set-cookie"]);
    }
}
