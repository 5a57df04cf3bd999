//! Replies that are encrypted on the disk.
//!
//! XChaCha20-Poly1305 with a random nonce for each reply. The record's identity, which is its key's digest and its
//! fencing token, is authenticated with it: a reply that is moved to another record is refused.

#[cfg(feature = "encryption")]
mod keys;

#[cfg(feature = "encryption")]
pub use keys::EncryptionKeys;

#[cfg(feature = "encryption")]
pub(crate) use keys::EncryptionKeys as Cipher;

use crate::secret::Digest;

/// What a reply is bound to.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "encryption"), allow(dead_code))] // There is nothing to bind then.
pub(crate) struct Identity {
    pub(crate) digest: Digest,
    pub(crate) token: u64,
}

/// There are no keys without the feature `encryption`.
#[cfg(not(feature = "encryption"))]
#[derive(Clone, Debug)]
pub(crate) enum Cipher {}

#[cfg(not(feature = "encryption"))]
impl Cipher {
    pub(crate) fn primary(&self) -> u32 {
        match *self {}
    }

    pub(crate) fn checks(&self) -> Vec<(u32, [u8; 32])> {
        match *self {}
    }

    pub(crate) fn seal(&self, _: Identity, _: &[u8]) -> crate::error::Result<Vec<u8>> {
        match *self {}
    }

    pub(crate) fn open(&self, _: u32, _: Identity, _: &[u8]) -> crate::error::Result<Vec<u8>> {
        match *self {}
    }
}
