//! Fingerprints are equal exactly if the parts are, whatever their order; what breaks the rules is refused.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use onceward::fuzzing::whole;
use onceward::limits::{MAX_FINGERPRINT_PARTS, MAX_PART_NAME_BYTES};
use onceward::{ErrorKind, Fingerprint};

type Parts = Vec<(String, Vec<u8>)>;

#[derive(Debug)]
enum Change {
    /// The end of a part's name goes to the beginning of its value.
    NameToValue {
        part: u8,
    },
    /// The beginning of a part's value goes to the end of its name.
    ValueToName {
        part: u8,
    },
    /// The end of a value goes to the beginning of the next part's.
    ValueToNext {
        part: u8,
        count: u8,
    },
    /// Two parts' values change places.
    Values {
        part: u8,
        with: u8,
    },
    /// Two parts change places.
    Parts {
        part: u8,
        with: u8,
    },
    /// A part and the next one become one, with the bytes between them.
    Join {
        part: u8,
        between: Vec<u8>,
    },
    Remove {
        part: u8,
    },
    Add {
        name: String,
        value: Vec<u8>,
    },
}

impl Change {
    fn read(input: &mut Unstructured<'_>) -> Result<Self> {
        let what = input.int_in_range(0..=7)?;
        let part = input.arbitrary()?;
        Ok(match what {
            0 => Self::NameToValue { part },
            1 => Self::ValueToName { part },
            2 => Self::ValueToNext {
                part,
                count: input.int_in_range(0..=8)?,
            },
            3 => Self::Values {
                part,
                with: input.arbitrary()?,
            },
            4 => Self::Parts {
                part,
                with: input.arbitrary()?,
            },
            5 => Self::Join {
                part,
                between: value(input)?,
            },
            6 => Self::Remove { part },
            _ => Self::Add {
                name: name(input)?,
                value: value(input)?,
            },
        })
    }

    fn make(self, parts: &mut Parts) {
        let count = parts.len();
        if let Self::Add { name, value } = self {
            return parts.push((name, value));
        }
        if count == 0 {
            return;
        }
        let at = |part: u8| usize::from(part) % count;
        match self {
            Self::NameToValue { part } => {
                let (name, value) = &mut parts[at(part)];
                if let Some(last) = name.pop() {
                    value.splice(..0, last.to_string().into_bytes());
                }
            }
            Self::ValueToName { part } => {
                let (name, value) = &mut parts[at(part)];
                if value.first().is_some_and(u8::is_ascii) {
                    name.push(char::from(value.remove(0)));
                }
            }
            Self::ValueToNext { part, count } => {
                let value = &mut parts[at(part)].1;
                let moved = value.split_off(value.len().saturating_sub(count.into()));
                parts[at(part.wrapping_add(1))].1.splice(..0, moved);
            }
            Self::Values { part, with } => {
                let value = std::mem::take(&mut parts[at(part)].1);
                let value = std::mem::replace(&mut parts[at(with)].1, value);
                parts[at(part)].1 = value;
            }
            Self::Parts { part, with } => parts.swap(at(part), at(with)),
            Self::Join { part, between } => {
                let (name, value) = parts.remove(at(part));
                if let Some((_, joined)) = parts.get_mut(usize::from(part) % count) {
                    joined.extend(between);
                    joined.extend(name.into_bytes());
                    joined.extend(value);
                }
            }
            Self::Remove { part } => drop(parts.remove(at(part))),
            Self::Add { .. } => {}
        }
    }
}

/// The rules, and what is the same if two fingerprints are.
fn expected(parts: &Parts) -> Option<BTreeMap<&str, &[u8]>> {
    let names = |name: &str| {
        (1..=MAX_PART_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
    };
    let known: BTreeMap<_, _> = parts
        .iter()
        .map(|(name, value)| (&name[..], &value[..]))
        .collect();
    let is_valid = (1..=MAX_FINGERPRINT_PARTS).contains(&parts.len())
        && known.len() == parts.len()
        && known.keys().all(|name| names(name));
    is_valid.then_some(known)
}

fn built(parts: &Parts) -> Option<Fingerprint> {
    let builder = parts
        .iter()
        .fold(Fingerprint::builder(), |builder, (name, value)| {
            builder.part(name.clone(), value)
        });
    match builder.build() {
        Ok(fingerprint) => Some(fingerprint),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidFingerprint);
            None
        }
    }
}

/// Mostly short, and of few characters, so that parts are like each other.
fn name(input: &mut Unstructured<'_>) -> Result<String> {
    const CHARS: [char; 8] = ['a', 'b', '\u{8}', '\u{1}', 'ü', '\u{85}', ' ', '0'];
    let length = match input.int_in_range(0..=15)? {
        0 => input.int_in_range(60..=66)?,
        1 => return Ok("request".to_owned()),
        length => length / 4,
    };
    (0..length)
        .map(|_| Ok(*input.choose(&CHARS[..if length > 3 { 2 } else { 8 }])?))
        .collect()
}

fn value(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let length = input.int_in_range(0..=12)?;
    Ok(input.bytes(length)?.to_vec())
}

fn parts(input: &mut Unstructured<'_>) -> Result<Parts> {
    let count = match input.int_in_range(0..=15)? {
        0 => MAX_FINGERPRINT_PARTS - 1 + input.int_in_range(0..=2)?,
        count => count / 4,
    };
    let mut parts = (0..count.min(4))
        .map(|_| Ok((name(input)?, value(input)?)))
        .collect::<Result<Parts>>()?;
    parts.extend((4..count).map(|number| (format!("part {number}"), Vec::new())));
    Ok(parts)
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let one = parts(input)?;
    let mut other = match input.ratio(1, 8)? {
        true => parts(input)?,
        false => one.clone(),
    };
    for _ in 0..input.int_in_range(0..=3)? {
        Change::read(input)?.make(&mut other);
    }
    let (of_one, of_other) = (built(&one), built(&other));
    assert_eq!(of_one.is_some(), expected(&one).is_some());
    assert_eq!(of_other.is_some(), expected(&other).is_some());
    if let (Some(of_one), Some(of_other)) = (of_one, of_other) {
        let is_same = expected(&one) == expected(&other);
        assert_eq!(of_one == of_other, is_same);
        assert_eq!(whole(&of_one) == whole(&of_other), is_same);
        if let [(name, value)] = &one[..] {
            assert_eq!(of_one == Fingerprint::of(value), name == "request");
        }
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    // An input that ends early is no case.
    let _ = run(&mut Unstructured::new(input));
});
