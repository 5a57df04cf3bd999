//! What makes two requests the same request.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::limits::{MAX_FINGERPRINT_PARTS, MAX_PART_NAME_BYTES};

/// The framing that this version of the crate computes. It is stored with each record, so that a
/// later framing can't turn yesterday's retries into conflicts.
const FRAMING_V1: u8 = 1;

/// The name of the only part of [`Fingerprint::of`].
const WHOLE_REQUEST: &str = "request";

/// A digest of a request, by which a retry is told from another request under the same key.
///
/// Parts are named, each name and value is framed by its length, and the whole is hashed with
/// BLAKE3. A [`Conflict`](crate::Conflict) names the part that differs. At rest the digests are
/// keyed with the engine's secret, so that a guessed body can't be confirmed from the file.
///
/// ```
/// use onceward::Fingerprint;
///
/// let whole = Fingerprint::of(b"{\"amount\":100}");
/// let parts = Fingerprint::builder()
///     .part("method", "POST")
///     .part("path", "/payments")
///     .part("body", b"{\"amount\":100}")
///     .build()?;
/// assert_ne!(whole, parts);
/// # Ok::<(), onceward::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint {
    version: u8,
    whole: [u8; 32],
    /// `None` for the single part of [`Fingerprint::of`]: if the whole differs, that part does.
    parts: Option<Arc<[Part]>>,
}

/// One named part; `digest` covers the name and the value.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: Cow<'static, str>,
    pub(crate) digest: [u8; 32],
}

impl Fingerprint {
    /// The fingerprint of a request that is one run of bytes.
    ///
    /// The same as a builder's with the single part `request`.
    pub fn of(request: impl AsRef<[u8]>) -> Self {
        let digest = part_digest(WHOLE_REQUEST, request.as_ref());
        Self {
            version: FRAMING_V1,
            whole: whole_digest(std::iter::once(&digest)),
            parts: None,
        }
    }

    /// A builder, for a request of several named parts.
    pub fn builder() -> FingerprintBuilder {
        FingerprintBuilder { parts: Vec::new() }
    }

    pub(crate) fn version(&self) -> u8 {
        self.version
    }

    pub(crate) fn whole(&self) -> &[u8; 32] {
        &self.whole
    }

    pub(crate) fn parts(&self) -> Option<&[Part]> {
        self.parts.as_deref()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fingerprint")
            .field("version", &self.version)
            .field("parts", &self.parts.as_deref().map_or(1, <[Part]>::len))
            .finish_non_exhaustive()
    }
}

/// Collects the parts of a [`Fingerprint`]; made by [`Fingerprint::builder`].
///
/// The order in which parts are added makes no difference.
#[derive(Clone)]
#[must_use]
pub struct FingerprintBuilder {
    parts: Vec<Part>,
}

impl FingerprintBuilder {
    /// Adds a part: a name of 1 to 64 bytes, which a conflict may show to the client, and a value of
    /// any length, which is hashed at once and not kept.
    pub fn part(mut self, name: impl Into<Cow<'static, str>>, value: impl AsRef<[u8]>) -> Self {
        let name = name.into();
        let digest = part_digest(&name, value.as_ref());
        self.parts.push(Part { name, digest });
        self
    }

    /// The fingerprint of the parts added so far.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidFingerprint`] if there is no part, if there are more than 32, if two have
    /// one name, or if a name is empty, longer than 64 bytes, or holds a control character.
    pub fn build(mut self) -> Result<Fingerprint, Error> {
        self.parts
            .sort_unstable_by(|one, other| one.name.cmp(&other.name));
        self.check()?;
        let whole = whole_digest(self.parts.iter().map(|part| &part.digest));
        let is_whole_request = matches!(&self.parts[..], [only] if only.name == WHOLE_REQUEST);
        Ok(Fingerprint {
            version: FRAMING_V1,
            whole,
            parts: (!is_whole_request).then(|| self.parts.into()),
        })
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidFingerprint, message));
        if self.parts.is_empty() || self.parts.len() > MAX_FINGERPRINT_PARTS {
            return invalid(format!(
                "a fingerprint has 1 to {MAX_FINGERPRINT_PARTS} parts; this one has {}",
                self.parts.len()
            ));
        }
        for part in &self.parts {
            let bytes = part.name.len();
            if bytes == 0 || bytes > MAX_PART_NAME_BYTES || part.name.contains(char::is_control) {
                return invalid(format!(
                    "the name of a fingerprint's part has 1 to {MAX_PART_NAME_BYTES} bytes and no \
                     control characters; one has {bytes} bytes"
                ));
            }
        }
        for pair in self.parts.windows(2) {
            if pair[0].name == pair[1].name {
                return invalid(format!(
                    "two parts of a fingerprint have the name '{}'; give each its own",
                    pair[0].name
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for FingerprintBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FingerprintBuilder")
            .field("parts", &self.parts.len())
            .finish()
    }
}

fn part_digest(name: &str, value: &[u8]) -> [u8; 32] {
    let (name_bytes, value_bytes) = (length(name.len()), length(value.len()));
    digest(&[
        b"onceward part 1",
        &name_bytes,
        name.as_bytes(),
        &value_bytes,
        value,
    ])
}

fn whole_digest<'a>(parts: impl ExactSizeIterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    const MOST_PIECES: usize = MAX_FINGERPRINT_PARTS + 2;
    let count = length(parts.len());
    let mut pieces: [&[u8]; MOST_PIECES] = [b""; MOST_PIECES];
    pieces[0] = b"onceward fingerprint 1";
    pieces[1] = &count;
    let used = parts.len() + 2;
    for (piece, digest) in pieces[2..].iter_mut().zip(parts) {
        *piece = digest;
    }
    digest(&pieces[..used])
}

/// The hash of the pieces one after another.
///
/// A few short ones are laid side by side first: blake3's state for more costs more than hashing them.
fn digest(pieces: &[&[u8]]) -> [u8; 32] {
    const SHORT_BYTES: usize = 256;
    let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    if bytes <= SHORT_BYTES {
        let mut run = [0; SHORT_BYTES];
        let mut end = 0;
        for piece in pieces {
            run[end..end + piece.len()].copy_from_slice(piece);
            end += piece.len();
        }
        return blake3::hash(&run[..end]).into();
    }
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize().into()
}

fn length(bytes: usize) -> [u8; 8] {
    (bytes as u64).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(parts: &[(&'static str, &str)]) -> Fingerprint {
        parts
            .iter()
            .fold(Fingerprint::builder(), |builder, (name, value)| {
                builder.part(*name, value)
            })
            .build()
            .unwrap()
    }

    #[test]
    fn the_framing_of_version_1_is_pinned() {
        let hex = |fingerprint: &Fingerprint| blake3::Hash::from(*fingerprint.whole()).to_hex();
        assert_eq!(
            hex(&Fingerprint::of(b"payload")).as_str(),
            "4d82ba3010127f5d75389c0b78964084d1ea50ccef7b8003bf6358efe9576378"
        );
        assert_eq!(
            hex(&parts(&[("method", "POST"), ("body", "{}")])).as_str(),
            "0b3cc3d692c99c7392275ab1b2871405e5baec7a3b4fadc13231c7799e9cf1e2"
        );
    }

    #[test]
    fn bytes_that_move_between_parts_make_another_fingerprint() {
        assert_ne!(
            parts(&[("a", "xy"), ("b", "z")]),
            parts(&[("a", "x"), ("b", "yz")])
        );
        assert_ne!(parts(&[("ab", "c")]), parts(&[("a", "bc")]));
        assert_ne!(parts(&[("a", "")]), parts(&[("a", ""), ("b", "")]));
    }

    #[test]
    fn the_order_of_parts_makes_no_difference() {
        assert_eq!(
            parts(&[("a", "1"), ("b", "2")]),
            parts(&[("b", "2"), ("a", "1")])
        );
    }

    #[test]
    fn of_is_the_single_part_named_request() {
        assert_eq!(Fingerprint::of("x"), parts(&[("request", "x")]));
    }

    #[test]
    fn bad_parts_are_refused_with_a_reason() {
        let many = (0..33).fold(Fingerprint::builder(), |builder, number| {
            builder.part(format!("part {number}"), "")
        });
        for (builder, word) in [
            (Fingerprint::builder(), "has 0"),
            (many, "has 33"),
            (Fingerprint::builder().part("", ""), "0 bytes"),
            (Fingerprint::builder().part("x".repeat(65), ""), "65 bytes"),
            (Fingerprint::builder().part("a\n", ""), "control"),
            (
                Fingerprint::builder().part("a", "1").part("a", "2"),
                "name 'a'",
            ),
        ] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidFingerprint);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
