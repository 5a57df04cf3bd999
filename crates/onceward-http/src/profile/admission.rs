//! What becomes of a request, as far as its head tells.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Method};
use onceward::limits::MAX_KEY_BYTES;

use super::answer::Reason;
use super::key_syntax::KeyProblem;
use super::rules::Profile;

/// What becomes of a request, as far as its head tells; from [`Profile::admit`].
///
/// The enum is exhaustive on purpose: a server says what happens in all three cases.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission<'h> {
    /// The profile doesn't cover the method, or there is no key and none is required: hand the request to
    /// the handler as it is.
    Pass,
    /// The request carries this key.
    Keyed(Cow<'h, str>),
    /// The request must not reach the handler.
    Refused(Reason),
}

impl Profile {
    /// Reads a request's key and checks it. `path` is given to the rule for required keys, if there is one.
    ///
    /// Nothing is looked up: a malformed key costs no access to the store.
    pub fn admit<'h>(&self, method: &Method, path: &str, headers: &'h HeaderMap) -> Admission<'h> {
        let rules = &*self.rules;
        if !rules.methods.contains(method) {
            return Admission::Pass;
        }
        let key = match rules.syntax.read(&headers.get_all(&rules.header)) {
            Ok(Some(key)) => key,
            Ok(None) if rules.required.holds(method, path) => {
                return Admission::Refused(Reason::KeyMissing);
            }
            Ok(None) => return Admission::Pass,
            Err(problem) => return Admission::Refused(Reason::KeyMalformed(problem)),
        };
        match self.problem_of(&key) {
            Some(problem) => Admission::Refused(Reason::KeyMalformed(problem)),
            None => Admission::Keyed(key),
        }
    }

    fn problem_of(&self, key: &str) -> Option<KeyProblem> {
        let rules = &*self.rules;
        if key.is_empty() {
            return Some(KeyProblem::Empty);
        }
        let (chars, max_chars) = (key.chars().count(), rules.max_key_chars);
        if chars > max_chars {
            return Some(KeyProblem::TooLong { chars, max_chars });
        }
        let (bytes, max_bytes) = (key.len(), MAX_KEY_BYTES);
        if bytes > max_bytes {
            return Some(KeyProblem::TooManyBytes { bytes, max_bytes });
        }
        if key.contains(char::is_control) {
            return Some(KeyProblem::ControlCharacter);
        }
        let (name, is_met) = rules.format.as_ref()?;
        let expected = Arc::clone(name);
        (!is_met(key)).then_some(KeyProblem::WrongFormat { expected })
    }
}
