//! The caller's keys, and what is done with them.

use std::fmt;

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};

use super::Identity;
use crate::error::{Error, ErrorKind, Result};

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// The keys that replies are encrypted with on the disk; for
/// [`Builder::encryption`](crate::Builder::encryption).
///
/// One key is written with. Others are only read with: those that were written with before, until what they encrypted has
/// expired. Each has a number, which stands beside what it encrypted; a number is never given to another key.
///
/// ```
/// use onceward::EncryptionKeys;
///
/// # let (this_year, last_year) = ([1; 32], [2; 32]);
/// // Rotation: the new key comes first, the old one is kept for a retention.
/// let keys = EncryptionKeys::new(2026, this_year).and_reads(2025, last_year);
/// ```
#[derive(Clone)]
pub struct EncryptionKeys {
    primary: u32,
    keys: Vec<(u32, [u8; 32])>,
}

impl EncryptionKeys {
    /// Writes and reads with this key, which has this number. It has to be random, or derived by a KDF from what is.
    pub fn new(number: u32, key: [u8; 32]) -> Self {
        Self {
            primary: number,
            keys: vec![(number, key)],
        }
    }

    /// Also reads what was written with this key. Takes the place of an earlier key with the same number, unless that is
    /// the one that is written with.
    pub fn and_reads(mut self, number: u32, key: [u8; 32]) -> Self {
        if number != self.primary {
            self.keys.retain(|(other, _)| *other != number);
            self.keys.push((number, key));
        }
        self
    }

    /// The number of the key that is written with.
    pub(crate) fn primary(&self) -> u32 {
        self.primary
    }

    /// By which each key is told from another one; nothing else can be told by it.
    pub(crate) fn checks(&self) -> Vec<(u32, [u8; 32])> {
        let check = |key| blake3::derive_key("onceward 2026 encryption key check value", key);
        let checks = self.keys.iter();
        checks.map(|(number, key)| (*number, check(key))).collect()
    }

    /// Encrypts with the primary key: nonce, bytes, tag.
    pub(crate) fn seal(&self, identity: Identity, plain: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| {
            Error::with_source(ErrorKind::Io, "the system gives no random bytes", error)
        })?;
        let mut sealed = Vec::with_capacity(NONCE_BYTES + plain.len() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let cipher = self.cipher(self.primary)?;
        let aad = associated(self.primary, identity);
        let bytes = &mut sealed[NONCE_BYTES..];
        let tag = cipher.encrypt_in_place_detached(XNonce::from_slice(&nonce), &aad, bytes);
        let tag = tag.map_err(|_| {
            let message = "a reply is too large to be encrypted";
            Error::new(ErrorKind::ReplyTooLarge, message)
        })?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// What was encrypted with the key of this number, for the same identity.
    pub(crate) fn open(&self, number: u32, identity: Identity, sealed: &[u8]) -> Result<Vec<u8>> {
        let cipher = self.cipher(number)?;
        let parts = sealed.split_first_chunk::<NONCE_BYTES>();
        let parts =
            parts.and_then(|(nonce, rest)| Some((nonce, rest.split_last_chunk::<TAG_BYTES>()?)));
        let Some((nonce, (bytes, tag))) = parts else {
            return Err(refused(number));
        };
        let mut plain = bytes.to_vec();
        let (nonce, tag) = (XNonce::from_slice(nonce), Tag::from_slice(tag));
        let aad = associated(number, identity);
        cipher
            .decrypt_in_place_detached(nonce, &aad, &mut plain, tag)
            .map_err(|_| refused(number))?;
        Ok(plain)
    }

    fn cipher(&self, number: u32) -> Result<XChaCha20Poly1305> {
        let key = self.keys.iter().find(|(other, _)| *other == number);
        let (_, key) = key.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!(
                    "the reply was encrypted with the key number {number}, which the engine wasn't given; give it \
                     with EncryptionKeys::and_reads"
                ),
            )
        })?;
        Ok(XChaCha20Poly1305::new(Key::from_slice(key)))
    }
}

fn refused(number: u32) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "a reply doesn't match its encryption with the key number {number}: it was altered, or moved from another \
             record; restore the folder from a backup"
        ),
    )
}

fn associated(number: u32, identity: Identity) -> [u8; 44] {
    let mut bytes = [0; 44];
    bytes[..32].copy_from_slice(&identity.digest.0);
    bytes[32..40].copy_from_slice(&identity.token.to_le_bytes());
    bytes[40..].copy_from_slice(&number.to_le_bytes());
    bytes
}

impl fmt::Debug for EncryptionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptionKeys")
            .field("primary", &self.primary)
            .field("keys", &self.keys.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Digest;

    fn identity(byte: u8, token: u64) -> Identity {
        Identity {
            digest: Digest([byte; 32]),
            token,
        }
    }

    #[test]
    fn a_reply_is_read_by_its_own_record_only() {
        let keys = EncryptionKeys::new(1, [7; 32]);
        let sealed = keys.seal(identity(1, 1), b"body").unwrap();
        assert_eq!(keys.open(1, identity(1, 1), &sealed).unwrap(), b"body");
        for other in [identity(2, 1), identity(1, 2)] {
            assert_eq!(
                keys.open(1, other, &sealed).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
        // The same number twice means two keys in one place, and no two ciphertexts are the same.
        assert_ne!(keys.seal(identity(1, 1), b"body").unwrap(), sealed);
    }

    #[test]
    fn altered_bytes_and_other_keys_are_refused() {
        let keys = EncryptionKeys::new(1, [7; 32]);
        let sealed = keys.seal(identity(1, 1), b"body").unwrap();
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(keys.open(1, identity(1, 1), &altered).is_err(), "byte {at}");
            assert!(
                keys.open(1, identity(1, 1), &sealed[..at]).is_err(),
                "{at} bytes"
            );
        }
        let other = EncryptionKeys::new(1, [8; 32]);
        assert_eq!(
            other.open(1, identity(1, 1), &sealed).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        let unknown = keys.open(2, identity(1, 1), &sealed).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn a_rotated_key_still_reads() {
        let old = EncryptionKeys::new(1, [7; 32]);
        let sealed = old.seal(identity(1, 1), b"body").unwrap();
        let new = EncryptionKeys::new(2, [8; 32]).and_reads(1, [7; 32]);
        assert_eq!(new.open(1, identity(1, 1), &sealed).unwrap(), b"body");
        assert_eq!(format!("{new:?}"), "EncryptionKeys { primary: 2, keys: 2 }");
    }
}
