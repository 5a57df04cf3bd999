//! The path that a client sent.

use http::Uri;
use http::request::Parts;

/// Puts back the URI that the client sent, of which a router may have cut the part that it was nested under, and
/// gives the one that the handler is to see. Two nested routes must not have equal fingerprints.
#[cfg(feature = "axum")]
pub(super) fn restore_sent_uri(head: &mut Parts) -> Option<Uri> {
    let original = head.extensions.get::<axum::extract::OriginalUri>();
    let sent = original
        .filter(|original| original.0 != head.uri)?
        .0
        .clone();
    Some(std::mem::replace(&mut head.uri, sent))
}

#[cfg(not(feature = "axum"))]
pub(super) fn restore_sent_uri(_head: &mut Parts) -> Option<Uri> {
    None
}

/// Undoes [`restore_sent_uri`], for the handler.
pub(super) fn cut_again(head: &mut Parts, routed: Option<Uri>) {
    if let Some(uri) = routed {
        head.uri = uri;
    }
}
