//! Keys, fingerprints and replies from arbitrary input: nothing panics, and what goes in comes out.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use onceward::{Fingerprint, Key, Reply};

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    scope: String,
    key: String,
    parts: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

fuzz_target!(|input: Input| {
    if let Ok(key) = Key::new(&input.scope, &input.key) {
        assert_eq!(key.scope(), Some(input.scope.as_str()));
        assert_eq!(key.key(), input.key);
        assert_ne!(Some(key), Key::unscoped(&input.key).ok());
    }

    let build = |parts: &mut dyn Iterator<Item = &(String, Vec<u8>)>| {
        parts
            .fold(Fingerprint::builder(), |builder, (name, value)| {
                builder.part(name.clone(), value)
            })
            .build()
    };
    let forwards = build(&mut input.parts.iter());
    let backwards = build(&mut input.parts.iter().rev());
    match (forwards, backwards) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (one, other) => assert_eq!(one.is_err(), other.is_err()),
    }

    let reply = Reply::new(200, input.body.clone());
    let decoded = reply.decode::<(BTreeMap<String, Vec<u64>>, Option<String>)>();
    if let Ok(value) = decoded {
        let again = Reply::encode(&value).expect("what was decoded can be encoded");
        assert_eq!(
            again
                .decode::<(BTreeMap<String, Vec<u64>>, Option<String>)>()
                .ok(),
            Some(value)
        );
    }
});
