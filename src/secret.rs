//! The secret of a store, and what is keyed with it: digests of keys, and fingerprints at rest.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, OnceLock};

use crate::fingerprint::{Fingerprint, Part};
use crate::key::Key;
use crate::mutant::{self, Mutant};

/// The keys under which a store hashes what must not be guessed from its files.
pub(crate) struct Secret {
    for_keys: [u8; 32],
    for_key_scopes: [u8; 32],
    for_fingerprints: [u8; 32],
    for_scopes: [u8; 32],
    for_logs: [u8; 32],
    check: [u8; 32],
}

impl Secret {
    /// Derives the store's keys from a secret of any length.
    pub(crate) fn derive(material: &[u8]) -> Self {
        Self {
            for_keys: blake3::derive_key("onceward 2025 idempotency key digests", material),
            for_key_scopes: blake3::derive_key("onceward 2026 scopes of key digests", material),
            for_fingerprints: blake3::derive_key("onceward 2025 fingerprints at rest", material),
            for_scopes: blake3::derive_key("onceward 2026 scopes of credentials", material),
            for_logs: blake3::derive_key("onceward 2026 frames of logs", material),
            check: blake3::derive_key("onceward 2025 secret check value", material),
        }
    }

    /// The one of all registers without a pepper: nodes agree on every key, whatever their server
    /// has lost.
    #[cfg(any(test, feature = "register"))]
    pub(crate) fn public() -> Self {
        Self::derive(b"onceward 2026 digests of registers without a pepper")
    }

    /// Random bytes for a secret of the store's own.
    pub(crate) fn random_material() -> std::io::Result<[u8; 32]> {
        let mut material = [0; 32];
        getrandom::fill(&mut material).map_err(std::io::Error::other)?;
        Ok(material)
    }

    /// Tells whether a secret is the one that a store was made with, and nothing else about it.
    pub(crate) fn check_value(&self) -> [u8; 32] {
        self.check
    }

    /// A scope's name for a credential, from which the credential can't be guessed without the secret.
    pub(crate) fn scope(&self, credential: &[u8]) -> String {
        let hash = blake3::keyed_hash(&self.for_scopes, credential);
        hash.to_hex().to_string()
    }

    /// What the checksums in a segment's log begin with.
    pub(crate) fn log_seed(&self, store_id: &[u8; 16], segment: u64) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.for_logs);
        hasher.update(store_id).update(&segment.to_le_bytes());
        let hash = hasher.finalize();
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }

    pub(crate) fn digest(&self, key: &Key) -> Digest {
        let (framed, scope) = if mutant::is_on(Mutant::NoScope) {
            (key.key(), "")
        } else {
            // No scope is empty.
            (key.as_framed(), key.scope().unwrap_or_default())
        };
        let mut digest = *blake3::keyed_hash(&self.for_keys, framed.as_bytes()).as_bytes();
        let scope = blake3::keyed_hash(&self.for_key_scopes, scope.as_bytes());
        digest[KEY_BYTES..].copy_from_slice(&scope.as_bytes()[KEY_BYTES..]);
        Digest(digest)
    }

    /// The fingerprint without its parts: enough to tell a retry, and not which part of another request
    /// differs.
    pub(crate) fn seal_whole(&self, fingerprint: &Fingerprint) -> SealedFingerprint {
        SealedFingerprint {
            version: fingerprint.version(),
            whole: self.keyed(fingerprint.whole()),
            parts: None,
        }
    }

    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn seal(&self, fingerprint: &Fingerprint) -> SealedFingerprint {
        self.seal_whole(fingerprint).with_parts(self, fingerprint)
    }

    fn keyed(&self, digest: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(&self.for_fingerprints, digest).as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A secret that the caller keeps.
#[derive(Clone)]
pub(crate) struct Pepper(Arc<[u8]>);

impl Pepper {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper")
    }
}

/// So much of a digest is the hash of scope and key; the rest is the scope's alone.
const KEY_BYTES: usize = 24;

/// The keyed hashes of a scope and a key, and of the scope: a record's identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// The half that indexes are keyed by; entries carry the whole digest.
    pub(crate) fn short(&self) -> u128 {
        u128::from_le_bytes(*self.0.first_chunk().expect("a digest has 32 bytes"))
    }

    /// The same for all keys of a scope, and for those without one.
    pub(crate) fn scope(&self) -> u64 {
        u64::from_le_bytes(*self.0.last_chunk().expect("a digest has 32 bytes"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

/// Hashes digests with a key that is random per process: they are uniform already, but where the
/// secret isn't one, anybody could choose keys whose digests fall into one place.
pub(crate) struct DigestHasher {
    keys: [u64; 2],
    hash: u64,
}

/// Makes hashers with this process's key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BuildDigestHasher {
    keys: [u64; 2],
}

impl Default for BuildDigestHasher {
    fn default() -> Self {
        static KEYS: OnceLock<[u64; 2]> = OnceLock::new();
        // Odd, so that no bit of a digest is multiplied away.
        let random = |number: u64| RandomState::new().hash_one(number) | 1;
        let keys = *KEYS.get_or_init(|| [random(0), random(1)]);
        Self { keys }
    }
}

impl BuildHasher for BuildDigestHasher {
    type Hasher = DigestHasher;

    fn build_hasher(&self) -> DigestHasher {
        DigestHasher {
            keys: self.keys,
            hash: 0,
        }
    }
}

impl DigestHasher {
    /// Both halves of a product of 128 bits.
    fn fold(one: u64, other: u64) -> u64 {
        let (low, high) = halves(u128::from(one) * u128::from(other));
        low ^ high
    }
}

#[allow(clippy::cast_possible_truncation)] // Each half is what it is cut to.
fn halves(number: u128) -> (u64, u64) {
    (number as u64, (number >> 64) as u64)
}

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        let first: [u8; 8] = *bytes.first_chunk().unwrap_or(&[0; 8]);
        self.write_u64(u64::from_le_bytes(first));
    }

    fn write_u64(&mut self, number: u64) {
        self.hash = Self::fold(number ^ self.keys[0], self.keys[1]);
    }

    fn write_u128(&mut self, digest: u128) {
        let (low, high) = halves(digest);
        self.hash = Self::fold(low ^ self.keys[0], high ^ self.keys[1]);
    }

    fn write_usize(&mut self, _length: usize) {}
}

/// A fingerprint as records hold it: every digest keyed, so that a file tells nothing of requests.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SealedFingerprint {
    pub(crate) version: u8,
    pub(crate) whole: [u8; 32],
    /// `None` where the request had no named parts.
    pub(crate) parts: Option<Arc<[SealedPart]>>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SealedPart {
    pub(crate) name: Arc<str>,
    pub(crate) tag: [u8; 8],
}

impl SealedFingerprint {
    /// This whole with the parts of the fingerprint that it was sealed from.
    pub(crate) fn with_parts(mut self, secret: &Secret, fingerprint: &Fingerprint) -> Self {
        let seal_part = |part: &Part| SealedPart {
            name: part.name.as_ref().into(),
            tag: *secret
                .keyed(&part.digest)
                .first_chunk()
                .expect("a digest is longer than a tag"),
        };
        let parts = fingerprint.parts();
        self.parts = parts.map(|parts| parts.iter().map(seal_part).collect());
        self
    }

    /// Whether both are of the same request. The parts only help to say what differs.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        self.version == other.version && self.whole == other.whole
    }

    /// The first part, by name, that differs from the one in `other` or isn't there.
    pub(crate) fn differing_part(&self, other: &Self) -> Option<Arc<str>> {
        if self.version != other.version {
            return None;
        }
        let (mine, theirs) = (self.named_parts(), other.named_parts());
        let (mine, theirs) = (
            mine.iter().find(|part| !theirs.contains(part)),
            theirs.iter().find(|part| !mine.contains(part)),
        );
        let first = match (mine, theirs) {
            (Some(mine), Some(theirs)) => Some(if mine.name <= theirs.name {
                mine
            } else {
                theirs
            }),
            (mine, theirs) => mine.or(theirs),
        };
        first.map(|part| Arc::clone(&part.name))
    }

    pub(crate) fn named_parts(&self) -> &[SealedPart] {
        self.parts.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for SealedFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedFingerprint")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(parts: &[(&'static str, &str)]) -> SealedFingerprint {
        let builder = parts
            .iter()
            .fold(Fingerprint::builder(), |builder, (name, value)| {
                builder.part(*name, value)
            });
        Secret::derive(b"secret").seal(&builder.build().unwrap())
    }

    #[test]
    fn digests_and_fingerprints_depend_on_the_secret() {
        let (one, other) = (Secret::derive(b"one"), Secret::derive(b"other"));
        let key = Key::new("scope", "key").unwrap();
        assert_ne!(one.digest(&key), other.digest(&key));
        let fingerprint = Fingerprint::of("request");
        assert!(!one.seal(&fingerprint).matches(&other.seal(&fingerprint)));
        assert_ne!(one.check_value(), other.check_value());
    }

    #[test]
    fn the_scope_is_part_of_the_digest() {
        let secret = Secret::derive(b"secret");
        let digest = |scope, key| secret.digest(&Key::new(scope, key).unwrap());
        assert_ne!(digest("one", "key"), digest("other", "key"));
        assert_ne!(digest("ab", "c"), digest("a", "bc"));
    }

    #[test]
    fn the_digests_of_one_scopes_keys_end_alike() {
        let secret = Secret::derive(b"secret");
        let digest = |scope, key| secret.digest(&Key::new(scope, key).unwrap());
        let of_none = secret.digest(&Key::unscoped("key").unwrap());
        assert_eq!(digest("one", "key").scope(), digest("one", "other").scope());
        assert_ne!(digest("one", "key").scope(), digest("other", "key").scope());
        assert_ne!(digest("one", "key").scope(), of_none.scope());
        let [one, other] = ["key", "other"].map(|key| digest("one", key).0);
        assert_ne!(one[..16], other[..16]);
        assert_ne!(one[16..24], other[16..24]);
    }

    #[test]
    fn the_part_that_differs_is_named() {
        let first = sealed(&[("method", "POST"), ("body", "1")]);
        let body = sealed(&[("method", "POST"), ("body", "2")]);
        let extra = sealed(&[("method", "POST"), ("body", "1"), ("query", "")]);
        assert_eq!(first.differing_part(&body).as_deref(), Some("body"));
        assert_eq!(first.differing_part(&extra).as_deref(), Some("query"));
        assert_eq!(extra.differing_part(&first).as_deref(), Some("query"));
        assert_eq!(first.differing_part(&first), None);
    }
}
