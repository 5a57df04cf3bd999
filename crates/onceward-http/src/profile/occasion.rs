//! What an answer needs to know of the request that it goes to.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::keep::is_grpc;

/// What an answer needs to know of the request that it goes to; from [`Profile::occasion`](super::Profile::occasion).
#[derive(Clone, Debug)]
pub struct Occasion {
    pub(super) request_id: HeaderValue,
    pub(super) is_grpc: bool,
}

impl Occasion {
    pub(super) fn new(headers: &HeaderMap, request_id_header: Option<&HeaderName>) -> Self {
        let given = request_id_header.and_then(|name| headers.get(name));
        Self {
            request_id: given
                .filter(|value| value.to_str().is_ok_and(|id| !id.is_empty()))
                .cloned()
                .unwrap_or_else(new_request_id),
            is_grpc: is_grpc(headers),
        }
    }

    /// The request's id: from its header, or made for it.
    pub fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Whether the request speaks gRPC, so that a refusal has to as well.
    pub fn is_grpc(&self) -> bool {
        self.is_grpc
    }
}

/// An id that no other request of this process gets, and hardly one of any other process.
fn new_request_id() -> HeaderValue {
    static SEED: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let seed =
        SEED.get_or_init(|| getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())));
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = format!("req_{:016x}", scrambled(seed.wrapping_add(number)));
    HeaderValue::try_from(id).expect("letters and digits are a header's value")
}

/// One-to-one (splitmix64's finish), so that numbers that differ give ids that differ.
fn scrambled(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
