//! Bytes from a file: whatever they are, nothing panics, what decodes encodes to the same value, and the memory that
//! decoding takes is bounded by what there is to read and by the crate's limits.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use onceward::fuzzing::{
    Block, Entry, Manifest, Outline, Scopes, checked, checked_block, checked_scopes,
    encrypted_reply, framed, key_from_framed, reply_from_encrypted,
};
use onceward::limits::{
    MAX_KEY_BYTES, MAX_PART_NAME_BYTES, MAX_REPLY_BYTES, MAX_REPLY_HEADERS, MAX_SCOPE_BYTES,
};
use onceward::{ErrorKind, Reply};
use onceward_fuzz::{Counting, within};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Lists of headers and trailers, borrowed and owned, the text of an error, and room for what is small.
const SMALL: usize = MAX_REPLY_HEADERS * 4 * 64
    + MAX_KEY_BYTES
    + MAX_SCOPE_BYTES
    + 32 * MAX_PART_NAME_BYTES
    + (16 << 10);
/// What serde reserves for a list at once, whatever its stated length.
const LIST_AT_ONCE: usize = 1 << 20;
/// How much larger than its bytes a value may be, with the vector's growth.
const VALUE_PER_BYTE: usize = 80;

fuzz_target!(|input: &[u8]| {
    let Some((&what, bytes)) = input.split_first() else {
        return;
    };
    match what % 8 {
        0 => entry(bytes),
        1 => entry(&checked(bytes)),
        // As the crate writes it: the version 1.
        2 => entry(&checked(&[&[1], bytes].concat())),
        3 => key(bytes),
        4 => body(bytes),
        5 => encrypted(bytes),
        6 => block(bytes),
        _ => {
            manifest(bytes);
            scopes(bytes);
        }
    }
});

fn entry(bytes: &[u8]) {
    // The owned copy of what is borrowed, and each list twice.
    let read = within(2 * bytes.len() + SMALL, || Entry::decode(bytes));
    let outline = within(2 * bytes.len() + SMALL, || Outline::decode(bytes));
    let Ok(entry) = read else {
        return;
    };
    let outline = outline.expect("an entry has an outline");
    assert!(entry.agrees_with(&outline));
    let again = entry.encode().expect("what was decoded can be encoded");
    assert!(
        again.len() <= bytes.len(),
        "it is written no longer than it was"
    );
    assert!(Entry::decode(&again).expect("it can be decoded again") == entry);
    // The version and the body without the checksum: one byte more or less is another entry, or none.
    let body = &again[..again.len() - 8];
    assert!(Entry::decode(&checked(&body[..body.len() - 1])).is_err());
    assert!(Entry::decode(&checked(&[body, &[0]].concat())).is_err());
    if entry.is_encrypted() {
        drop(entry.decrypted());
        return;
    }
    let plain = Entry::decode(&again).expect("it was decoded before");
    if let Some(bytes) = plain.encrypted().expect("an entry can be encrypted") {
        let sealed = Entry::decode(&bytes).expect("what is encrypted can be decoded");
        assert!(sealed.is_encrypted());
        let decrypted = sealed.decrypted().expect("and decrypted");
        assert!(decrypted == entry);
    }
}

fn key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(key) = within(bytes.len() + SMALL, || key_from_framed(text)) {
        assert_eq!(framed(&key), text);
        let again = match key.scope() {
            Some(scope) => onceward::Key::new(scope, key.key()),
            None => onceward::Key::unscoped(key.key()),
        };
        assert_eq!(again.expect("its parts are valid"), key);
    }
}

type Value = (BTreeMap<String, Vec<u64>>, Option<String>, Vec<(u8, char)>);

fn body(bytes: &[u8]) {
    let reply = Reply::new(0, bytes.to_vec());
    // A text that says that it is long is made room for before its end is looked for.
    let most = MAX_REPLY_BYTES + 2 * LIST_AT_ONCE + VALUE_PER_BYTE * bytes.len() + SMALL;
    let Ok(value) = within(most, || reply.decode::<Value>()) else {
        return;
    };
    let again = Reply::encode(&value).expect("what was decoded can be encoded");
    assert_eq!(
        again.decode::<Value>().expect("it can be decoded again"),
        value
    );
}

fn encrypted(bytes: &[u8]) {
    let refused = reply_from_encrypted(bytes.to_vec()).expect_err("nobody has the key");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    let sealed = encrypted_reply(bytes).expect("any bytes can be encrypted");
    let most = 4 * sealed.len() + SMALL;
    if let Ok(reply) = within(most, || reply_from_encrypted(sealed)) {
        assert!(reply.size_bytes() <= bytes.len());
    }
}

fn block(bytes: &[u8]) {
    let Some((&number, list)) = bytes.split_first() else {
        return;
    };
    let number = u64::from(number);
    drop(Block::parse(number, list));
    let sealed = checked_block(number, list);
    assert!(
        Block::parse(number + 1, &sealed).is_err(),
        "it is another one's place"
    );
    let Ok(block) = Block::parse(number, &sealed) else {
        return;
    };
    for begun in block.entries().take(64).flatten() {
        let (prefix, length, here) = begun;
        assert!(here.len() <= length && here.len() <= list.len());
        assert!(block.count_with_prefix(prefix) > 0);
        assert!(block.continuation(length).len() <= length);
    }
}

fn scopes(bytes: &[u8]) {
    const STORE: [u8; 16] = [7; 16];
    drop(Scopes::decode(bytes, STORE));
    let sealed = checked_scopes(&[&STORE, bytes].concat());
    let counts = within(VALUE_PER_BYTE * bytes.len() + SMALL, || {
        Scopes::decode(&sealed, STORE)
    });
    let Some(counts) = counts else {
        return;
    };
    assert!(
        Scopes::decode(&sealed, [8; 16]).is_none(),
        "it is another store's"
    );
    let again = counts.encode(STORE);
    let mut read = Scopes::decode(&again, STORE).expect("it can be decoded again");
    assert_eq!(read.encode(STORE).len(), again.len());
    let (firsts, _) = bytes.as_chunks();
    let mut firsts: Vec<u64> = firsts
        .iter()
        .map(|first| u64::from_le_bytes(*first))
        .collect();
    firsts.sort_unstable();
    firsts.dedup();
    read.use_for(&firsts);
    assert!(Scopes::decode(&read.encode(STORE), STORE).is_some());
}

fn manifest(bytes: &[u8]) {
    drop(Manifest::decode(bytes));
    let sealed = checked(&[&[1], bytes].concat());
    let most = 2 * LIST_AT_ONCE + VALUE_PER_BYTE * bytes.len() + SMALL;
    if let Ok(manifest) = within(most, || Manifest::decode(&sealed)) {
        let again = manifest.encode().expect("what was decoded can be encoded");
        assert!(Manifest::decode(&again).expect("it can be decoded again") == manifest);
    }
}
