//! Who may import whom: the table of docs/DESIGN.md, held against the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the bottom up. A room may use its own floor's and lower floors' rooms.
const FLOORS: &[&[&str]] = &[
    &["sync"],
    &[
        "clock",
        "encryption",
        "error",
        "fingerprint",
        "key",
        "faults",
        "limits",
        "mutant",
        "observe",
        "outcome",
        "progress",
        "reply",
        "secret",
        "verification",
        "Guard",
    ],
    &["record"],
    &["decision"],
    &["codec", "protocol_model"],
    &["store"],
    &["engine"],
    &["testkit"],
    &["http"],
    &["middleware"],
    &["fuzzing"],
];

/// Crates that only some rooms may name.
const CRATES: &[(&str, &[&str])] = &[
    ("redb", &["store/embedded", "store/transaction"]),
    ("bincode", &["codec"]),
    ("twox_hash", &["codec"]),
    ("quick_cache", &["store/replay_cache"]),
    (
        "rustix",
        &["clock", "store/embedded/directory", "store/embedded/disk"],
    ),
    ("chacha20poly1305", &["encryption"]),
    ("crossbeam_channel", &["sync"]),
    // Elsewhere only for locks that nothing from `sync` is used under.
    (
        "parking_lot",
        &[
            "sync",
            "faults",
            "store/embedded/folder",
            "store/embedded/frozen_file",
            "store/embedded/growing_file",
            "store/embedded/index",
        ],
    ),
    ("shuttle", &["sync/explored"]),
    ("metrics", &["observe/facade"]),
    ("tracing", &["observe/spans"]),
    ("sfv", &["http/key_syntax"]),
    ("serde_json", &["http/shape"]),
    ("stateright", &["protocol_model"]),
    (
        "tokio",
        &[
            "middleware",
            "store/register",
            "store/redis",
            "store/postgres",
            "store/transaction",
            "store/tries",
            "engine/outcomes",
            "testkit",
        ],
    ),
    ("redis", &["store/redis"]),
    ("tokio_postgres", &["store/postgres"]),
    ("deadpool_postgres", &["store/postgres"]),
    ("tower_service", &["middleware/tower"]),
    ("tower_layer", &["middleware/tower"]),
    (
        "axum",
        &["middleware/tower/extract", "middleware/tower/uri"],
    ),
    ("actix_web", &["middleware/actix"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The part of a file that isn't its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end].to_owned()
}

fn each_source(mut check: impl FnMut(&str, &str)) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30);
    for file in files {
        let name = file
            .strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        if name != "lib.rs" && !name.ends_with("tests.rs") && !name.contains("/tests/") {
            check(&name, &code(&file));
        }
    }
}

#[test]
fn imports_point_from_upper_floors_to_lower_ones() {
    each_source(|name, code| {
        let room = name.split(['/', '.']).next().unwrap();
        let own = floor(room).unwrap_or_else(|| panic!("{name} is in no room of the table"));
        for (at, _) in code.match_indices("crate::") {
            let line_start = code[..at].rfind('\n').map_or(0, |end| end + 1);
            // Links in documentation may point anywhere.
            if code[line_start..at].trim_start().starts_with("//") {
                continue;
            }
            let used: String = code[at + "crate::".len()..]
                .chars()
                .take_while(|char| char.is_alphanumeric() || *char == '_')
                .collect();
            let Some(used_floor) = floor(&used) else {
                panic!("{name} uses crate::{used}, which is in no room of the table");
            };
            assert!(
                used_floor <= own,
                "{name} uses crate::{used}, a floor above"
            );
        }
    });
}

#[test]
fn each_dependency_is_named_where_it_may_be() {
    each_source(|name, code| {
        for (dependency, rooms) in CRATES {
            let names_it = code.lines().any(|line| {
                !line.trim_start().starts_with("//") && line.contains(&format!("{dependency}::"))
            });
            let may = rooms.iter().any(|room| name.starts_with(room));
            assert!(!names_it || may, "{name} names {dependency}");
        }
    });
}

/// Whether a function's signature begins in this line, wherever it ends.
fn begins_function(line: &str) -> bool {
    const BEFORE: [&str; 5] = ["pub ", "pub(crate) ", "pub(super) ", "async ", "const "];
    let mut rest = line.trim_start();
    while let Some(stripped) = BEFORE.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = stripped;
    }
    rest.starts_with("fn ")
}

#[test]
fn files_and_functions_stay_small() {
    each_source(|name, code| {
        assert!(code.lines().count() <= 400, "{name} is too long");
        let mut start = None;
        for (number, line) in code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if begins_function(line) {
                start.get_or_insert((number, indent));
            }
            if let Some((_, depth)) = start
                && indent == depth
                && line.trim_end().ends_with(';')
            {
                start = None; // A declaration without a body.
            }
            if let Some((first, depth)) = start
                && line.trim_end() == format!("{}}}", " ".repeat(depth))
            {
                assert!(number - first < 70, "{name}:{first} is too long");
                start = None;
            }
        }
    });
}
