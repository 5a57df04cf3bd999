//! How a key is written in a header, and what is wrong with one that isn't.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::header::{GetAll, HeaderValue};
use sfv::{BareItem, Item, Parser};

/// How the header's value is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySyntax {
    /// The value is the key, as it stands.
    #[default]
    Bare,
    /// The value is a structured-field String (RFC 9651), in quotes, with `\"` and `\\` inside, as the
    /// IETF draft has it (section 2.1). Parameters after it are ignored.
    StructuredString,
    /// A structured-field String if the value begins with a quote, bare otherwise.
    StructuredStringOrBare,
}

/// Why a request's key is malformed. Its text, which a client may see, doesn't repeat the key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyProblem {
    /// More than one header carries a key.
    Repeated,
    /// The value isn't UTF-8.
    NotText,
    /// The value isn't a structured-field String.
    NotAStructuredString,
    /// The key has no characters.
    Empty,
    /// The key has more characters than the profile allows.
    #[non_exhaustive]
    TooLong {
        /// How many it has.
        chars: usize,
        /// How many it may have.
        max_chars: usize,
    },
    /// The key's text takes more bytes than the engine allows.
    #[non_exhaustive]
    TooManyBytes {
        /// How many it takes.
        bytes: usize,
        /// How many it may take.
        max_bytes: usize,
    },
    /// The key holds a control character.
    ControlCharacter,
    /// The key isn't in the format that the profile asks for.
    #[non_exhaustive]
    WrongFormat {
        /// The format's name.
        expected: Arc<str>,
    },
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repeated => {
                f.write_str("there is more than one key; send one header with one key")
            }
            Self::NotText => f.write_str("it is not UTF-8 text"),
            Self::NotAStructuredString => {
                f.write_str("it is not a structured-field String; put the key in double quotes")
            }
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong { chars, max_chars } => {
                write!(
                    f,
                    "it has {chars} characters; at most {max_chars} are allowed"
                )
            }
            Self::TooManyBytes { bytes, max_bytes } => {
                write!(f, "it takes {bytes} bytes; at most {max_bytes} are allowed")
            }
            Self::ControlCharacter => f.write_str("it holds a control character"),
            Self::WrongFormat { expected } => write!(f, "it is not {expected}"),
        }
    }
}

impl KeySyntax {
    /// The key in the headers, if there is one; nothing but its writing is checked.
    pub(super) fn read<'h>(
        self,
        values: &GetAll<'h, HeaderValue>,
    ) -> Result<Option<Cow<'h, str>>, KeyProblem> {
        let mut values = values.iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(KeyProblem::Repeated);
        }
        let bytes = value.as_bytes();
        let is_quoted = match self {
            Self::Bare => false,
            Self::StructuredString => true,
            Self::StructuredStringOrBare => bytes.first() == Some(&b'"'),
        };
        let key = if is_quoted {
            structured_string(bytes)?
        } else {
            Cow::Borrowed(std::str::from_utf8(bytes).map_err(|_| KeyProblem::NotText)?)
        };
        Ok(Some(key))
    }
}

fn structured_string(bytes: &[u8]) -> Result<Cow<'_, str>, KeyProblem> {
    if bytes.is_empty() {
        return Err(KeyProblem::Empty);
    }
    match Parser::new(bytes).parse::<Item>() {
        Ok(Item {
            bare_item: BareItem::String(text),
            ..
        }) => Ok(Cow::Owned(text.into())),
        _ => Err(KeyProblem::NotAStructuredString),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn read(syntax: KeySyntax, values: &[&[u8]]) -> Result<Option<String>, KeyProblem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("k", HeaderValue::from_bytes(value).unwrap());
        }
        let key = syntax.read(&headers.get_all("k"))?;
        Ok(key.map(Cow::into_owned))
    }

    #[test]
    fn a_bare_value_is_the_key_quotes_and_all() {
        for text in ["550e8400", "\"quoted\"", "a b", "ü", "a, b"] {
            let key = read(KeySyntax::Bare, &[text.as_bytes()]);
            assert_eq!(key, Ok(Some(text.to_owned())));
        }
        assert_eq!(read(KeySyntax::Bare, &[]), Ok(None));
        assert_eq!(read(KeySyntax::Bare, &[b"\xff"]), Err(KeyProblem::NotText));
    }

    #[test]
    fn two_headers_are_malformed_even_if_they_agree() {
        for syntax in [KeySyntax::Bare, KeySyntax::StructuredString] {
            let key = read(syntax, &[b"\"a\"", b"\"a\""]);
            assert_eq!(key, Err(KeyProblem::Repeated));
        }
    }

    #[test]
    fn a_structured_string_is_unquoted_and_unescaped() {
        for (value, key) in [
            (r#""8e03978e""#, "8e03978e"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#""a";version=1"#, "a"),
            (r#""""#, ""),
        ] {
            for syntax in [
                KeySyntax::StructuredString,
                KeySyntax::StructuredStringOrBare,
            ] {
                assert_eq!(read(syntax, &[value.as_bytes()]), Ok(Some(key.to_owned())));
            }
        }
    }

    #[test]
    fn what_is_no_structured_string_is_refused() {
        let malformed: [&[u8]; 9] = [
            b"bare",
            b"\"open",
            b"\"a\" b",
            b"\"a\", \"b\"",
            b"17",
            b":YQ==:",
            b"\"\\n\"",
            b"\"\xc3\xbc\"",
            b"?1",
        ];
        for value in malformed {
            let key = read(KeySyntax::StructuredString, &[value]);
            assert_eq!(key, Err(KeyProblem::NotAStructuredString));
        }
        assert_eq!(
            read(KeySyntax::StructuredString, &[b""]),
            Err(KeyProblem::Empty)
        );
    }

    #[test]
    fn the_lenient_syntax_takes_bare_keys_and_no_broken_strings() {
        let lenient = KeySyntax::StructuredStringOrBare;
        assert_eq!(read(lenient, &[b"bare"]), Ok(Some("bare".to_owned())));
        assert_eq!(
            read(lenient, &[b"\"open"]),
            Err(KeyProblem::NotAStructuredString)
        );
    }
}
