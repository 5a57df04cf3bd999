//! The path that a client sent.

use http::Uri;
use http::request::Parts;

/// The request's URI before a router cut off the part that it was nested under: two nested routes must not have
/// equal fingerprints.
#[cfg(feature = "axum")]
pub(super) fn sent_uri(head: &Parts) -> &Uri {
    let original = head.extensions.get::<axum::extract::OriginalUri>();
    original.map_or(&head.uri, |original| &original.0)
}

#[cfg(not(feature = "axum"))]
pub(super) fn sent_uri(head: &Parts) -> &Uri {
    &head.uri
}
