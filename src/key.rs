//! The idempotency key and its scope.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::limits::{MAX_KEY_BYTES, MAX_SCOPE_BYTES};

/// How many bytes of the framed text say how long the scope is.
const FRAME_BYTES: usize = 2;

/// An idempotency key in its scope.
///
/// The scope is whatever keeps two callers' keys apart: a tenant, an account, an operation, or
/// several of them joined by the caller. It is a required argument because the bug that
/// idempotency stores have most often is one tenant getting another tenant's answer.
///
/// Scope and key are text of 1 to 1,024 bytes each without control characters. They are compared
/// byte for byte: neither case nor Unicode form is folded. The two are framed by length before they
/// are hashed, so that `("ab", "c")` and `("a", "bc")` are different keys.
///
/// Cloning is cheap. [`Debug`](fmt::Debug) shows the lengths only, because keys are secrets in some
/// systems.
///
/// ```
/// use onceward::Key;
///
/// let key = Key::new("acct_42", "550e8400-e29b-41d4-a716-446655440000")?;
/// assert_eq!(key.scope(), Some("acct_42"));
/// # Ok::<(), onceward::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The scope's length in two 7-bit characters, the scope, the key. A scope is never empty, so
    /// that the length 0 is free to mean 'no scope'.
    framed: Arc<str>,
}

impl Key {
    /// A key in a scope.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`] if either is empty, longer than 1,024 bytes, or holds a control
    /// character (Unicode category Cc).
    pub fn new(scope: impl AsRef<str>, key: impl AsRef<str>) -> Result<Self, Error> {
        let scope = scope.as_ref();
        check("scope", scope, MAX_SCOPE_BYTES)?;
        Self::framed(scope, key.as_ref())
    }

    /// A key that says aloud that it has no scope: every caller shares it.
    ///
    /// It never equals a key made with [`Key::new`].
    ///
    /// # Errors
    ///
    /// As [`Key::new`].
    pub fn unscoped(key: impl AsRef<str>) -> Result<Self, Error> {
        Self::framed("", key.as_ref())
    }

    fn framed(scope: &str, key: &str) -> Result<Self, Error> {
        check("key", key, MAX_KEY_BYTES)?;
        let mut framed = String::with_capacity(FRAME_BYTES + scope.len() + key.len());
        framed.push(seven_bits(scope.len() >> 7));
        framed.push(seven_bits(scope.len()));
        framed.push_str(scope);
        framed.push_str(key);
        Ok(Self {
            framed: framed.into(),
        })
    }

    /// The scope, or `None` for an [unscoped](Key::unscoped) key.
    pub fn scope(&self) -> Option<&str> {
        let end = self.scope_end();
        (end > FRAME_BYTES).then(|| &self.framed[FRAME_BYTES..end])
    }

    /// The key without its scope.
    pub fn key(&self) -> &str {
        &self.framed[self.scope_end()..]
    }

    /// A key for a call that the handler makes to another service in this step of its work.
    ///
    /// The same for every attempt at the request, and another one for each scope, key and step, so that
    /// the other service carries the call out once. 32 hexadecimal digits, from which the key can't be
    /// told.
    ///
    /// ```
    /// use onceward::Key;
    ///
    /// let key = Key::new("acct_42", "order-17")?;
    /// assert_eq!(key.downstream("charge"), key.clone().downstream("charge"));
    /// assert_ne!(key.downstream("charge"), key.downstream("ship"));
    /// # Ok::<(), onceward::Error>(())
    /// ```
    pub fn downstream(&self, step: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"onceward downstream 1");
        hasher.update(&(self.framed.len() as u64).to_le_bytes());
        hasher.update(self.framed.as_bytes());
        hasher.update(step.as_bytes());
        let mut digits = hasher.finalize().to_hex().to_string();
        digits.truncate(32);
        digits
    }

    /// What is hashed, and what is kept on the disk: frame, scope and key in one text.
    pub(crate) fn as_framed(&self) -> &str {
        &self.framed
    }

    /// Reads what [`as_framed`](Key::as_framed) gave; `None` if it can't have come from there.
    pub(crate) fn from_framed(framed: &str) -> Option<Self> {
        let frame: &[u8; FRAME_BYTES] = framed.as_bytes().first_chunk()?;
        let end = FRAME_BYTES + scope_bytes(*frame)?;
        let (scope, key) = (framed.get(FRAME_BYTES..end)?, framed.get(end..)?);
        let scope_is_sound = scope.is_empty() || check("scope", scope, MAX_SCOPE_BYTES).is_ok();
        (scope_is_sound && check("key", key, MAX_KEY_BYTES).is_ok()).then(|| Self {
            framed: framed.into(),
        })
    }

    fn scope_end(&self) -> usize {
        let bytes = self.framed.as_bytes();
        FRAME_BYTES + usize::from(bytes[0]) * 128 + usize::from(bytes[1])
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("scope_bytes", &self.scope().map(str::len))
            .field("key_bytes", &self.key().len())
            .finish()
    }
}

/// The low 7 bits as an ASCII character.
fn seven_bits(number: usize) -> char {
    char::from(u8::try_from(number & 0x7f).expect("7 bits fit a byte"))
}

/// The scope's length that a frame states, if it is one that a scope can have.
fn scope_bytes(frame: [u8; FRAME_BYTES]) -> Option<usize> {
    let length = usize::from(frame[0]) * 128 + usize::from(frame[1]);
    (frame[0] < 128 && frame[1] < 128 && length <= MAX_SCOPE_BYTES).then_some(length)
}

fn check(what: &str, text: &str, most: usize) -> Result<(), Error> {
    let problem = if text.is_empty() {
        "is empty; it needs at least 1 byte".to_owned()
    } else if text.len() > most {
        format!("has {} bytes; it may have at most {most}", text.len())
    } else if let Some(at) = text.find(char::is_control) {
        format!("holds a control character at byte {at}; it may hold none")
    } else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::InvalidKey,
        format!("the {what} {problem}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_and_key_come_back_as_they_went_in() {
        for scope_bytes in [1, 2, 127, 128, 129, 1_023, 1_024] {
            let scope = "s".repeat(scope_bytes);
            let key = Key::new(&scope, "key").unwrap();
            assert_eq!(key.scope(), Some(scope.as_str()));
            assert_eq!(key.key(), "key");
            assert_eq!(Key::from_framed(key.as_framed()), Some(key));
        }
        let unscoped = Key::unscoped("key").unwrap();
        assert_eq!(unscoped.scope(), None);
        assert_eq!(unscoped.key(), "key");
        assert_eq!(Key::from_framed(unscoped.as_framed()), Some(unscoped));
    }

    #[test]
    fn moving_a_byte_from_scope_to_key_makes_another_key() {
        assert_ne!(Key::new("ab", "c").unwrap(), Key::new("a", "bc").unwrap());
        assert_ne!(Key::new("a", "b").unwrap(), Key::unscoped("ab").unwrap());
        assert_ne!(
            Key::new("a", "b").unwrap(),
            Key::unscoped("\u{e9}b").unwrap()
        );
    }

    #[test]
    fn empty_oversize_and_control_characters_are_refused_with_a_reason() {
        let long = "x".repeat(1_025);
        for (scope, key, word) in [
            ("", "k", "scope is empty"),
            ("s", "", "key is empty"),
            (long.as_str(), "k", "1025 bytes"),
            ("s", long.as_str(), "1025 bytes"),
            ("s\n", "k", "control character at byte 1"),
            ("s", "a\u{7f}", "control character at byte 1"),
            ("s", "\u{85}", "control character at byte 0"),
        ] {
            let error = Key::new(scope, key).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidKey);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn downstream_keys_are_pinned_and_differ_by_scope_key_and_step() {
        let key = Key::new("acct_42", "order-17").unwrap();
        assert_eq!(key.downstream("charge"), "c9110b56d2b80f6caee26f52d27d9f1e");
        let others = [
            key.downstream("charg"),
            Key::new("acct_43", "order-17")
                .unwrap()
                .downstream("charge"),
            Key::new("acct_42", "order-1")
                .unwrap()
                .downstream("7charge"),
            Key::unscoped("order-17").unwrap().downstream("charge"),
        ];
        assert!(!others.contains(&key.downstream("charge")));
    }

    #[test]
    fn any_other_text_is_a_key() {
        for text in ["ü", "鍵", "🔑🔑", " ", "a b", "\u{a0}", "\"quoted\""] {
            assert_eq!(Key::new(text, text).unwrap().key(), text);
        }
    }

    #[test]
    fn framed_text_that_no_key_gives_is_refused() {
        for framed in ["", "\0", "\0\0", "\0\u{5}ab", "\u{7f}\u{7f}abc", "é"] {
            assert_eq!(Key::from_framed(framed), None, "{framed:?}");
        }
    }

    #[test]
    fn debug_shows_no_text() {
        let shown = format!("{:?}", Key::new("canary-scope", "canary-key").unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }
}
