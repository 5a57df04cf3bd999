//! Who may use whom: the tables of docs/DESIGN.md, held against the sources of all packages that are published.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What the paths of a package's rooms begin with, and where its sources are.
const PACKAGES: [(&str, &str); 4] = [
    ("", "src"),
    ("http", "crates/onceward-http/src"),
    ("postgres", "crates/onceward-postgres/src"),
    ("redis", "crates/onceward-redis/src"),
];

/// The tables.
struct House {
    /// The rooms, with the number of the line that each is in.
    rooms: BTreeMap<String, usize>,
    /// Crates, and where they may be named.
    crates: BTreeMap<String, Vec<String>>,
}

/// A source file without its tests and comments.
struct Source {
    /// Its module, as the table has it: `store/embedded/writer`.
    module: String,
    /// What the modules of its package begin with.
    package: &'static str,
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The words in back-quotes.
fn quoted(cell: &str) -> Vec<String> {
    let words = cell.split('`').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

impl House {
    fn read() -> Self {
        let text = fs::read_to_string(root().join("docs/DESIGN.md")).unwrap();
        let rows = |header: &str| -> Vec<(Vec<String>, Vec<String>)> {
            let (_, table) = text.split_once(header).expect("the table is there");
            let lines = table.lines().skip(2);
            lines
                .map_while(|line| {
                    let (first, second) = line.strip_prefix("| ")?.split_once(" | ")?;
                    Some((quoted(first), quoted(second)))
                })
                .collect()
        };
        let mut rooms = BTreeMap::new();
        for (number, (names, _)) in rows("| rooms | what they are |").into_iter().enumerate() {
            rooms.extend(names.into_iter().map(|name| (name, number)));
        }
        let mut crates = BTreeMap::new();
        for (names, places) in rows("| crate | where |") {
            crates.extend(names.into_iter().map(|name| (name, places.clone())));
        }
        assert!(rooms.len() > 30 && crates.len() > 15);
        Self { rooms, crates }
    }

    /// The room that a module is in.
    fn room(&self, module: &str) -> Option<&str> {
        let is_in = |room: &&String| is_within(module, room);
        let rooms = self.rooms.keys().filter(is_in);
        rooms.max_by_key(|room| room.len()).map(String::as_str)
    }
}

fn is_within(module: &str, room: &str) -> bool {
    let rest = module.strip_prefix(room);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for (package, folder) in PACKAGES {
        let folder = root().join(folder);
        let mut found = Vec::new();
        files(&folder, &mut found);
        for file in found {
            let name = file.strip_prefix(&folder).unwrap().with_extension("");
            let name = name.to_str().unwrap();
            if name.ends_with("tests") || name.contains("/tests/") {
                continue;
            }
            let name = name.strip_suffix("/mod").unwrap_or(name);
            let name = name.strip_suffix("lib").unwrap_or(name);
            let module = format!("{package}/{name}");
            let text = fs::read_to_string(&file).unwrap();
            let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            let code: Vec<_> = text[..end].lines().filter(is_code).collect();
            sources.push(Source {
                module: module.trim_matches('/').to_owned(),
                package,
                code: code.join("\n"),
            });
        }
    }
    assert!(sources.len() > 150);
    sources
}

impl Source {
    /// A front page, which names everything.
    fn is_front_page(&self) -> bool {
        self.module == self.package
    }

    /// The modules and items of its package that it names.
    fn uses(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut rest = self.code.as_str();
        while let Some(at) = rest.find("use ") {
            let begins = rest[..at].ends_with(['\n', ' ', ')']) || at == 0;
            rest = &rest[at + "use ".len()..];
            if let (true, Some(end)) = (begins, rest.find(';')) {
                let tree: String = rest[..end].split_whitespace().collect();
                found.extend(paths(&tree).iter().filter_map(|path| self.resolve(path)));
            }
        }
        for start in ["crate::", "super::"] {
            for (at, _) in self.code.match_indices(start) {
                let is_of_path = |char: char| char.is_alphanumeric() || "_:".contains(char);
                let end = self.code[at..].find(|char| !is_of_path(char));
                let path = &self.code[at..end.map_or(self.code.len(), |end| at + end)];
                // Who may see something isn't a use.
                let is_whole =
                    !self.code[..at].ends_with(is_of_path) && !self.code[..at].ends_with("pub(in ");
                if is_whole && !path.ends_with("::") {
                    found.extend(self.resolve(path));
                }
            }
        }
        found
    }

    /// The path from the package's root; `None` if it begins elsewhere.
    fn resolve(&self, path: &str) -> Option<String> {
        let own = self.module.strip_prefix(self.package).unwrap_or_default();
        let own = own.split('/').filter(|part| !part.is_empty());
        let mut module: Vec<&str> = own.collect();
        let mut parts = path.split("::").filter(|part| !part.is_empty()).peekable();
        match *parts.peek()? {
            "crate" => {
                module.clear();
                parts.next();
            }
            "self" => drop(parts.next()),
            "super" => {
                while parts.next_if_eq(&"super").is_some() {
                    module.pop();
                }
            }
            _ => return None,
        }
        let package = Some(self.package).filter(|package| !package.is_empty());
        let all: Vec<_> = package.into_iter().chain(module).chain(parts).collect();
        Some(all.join("/"))
    }
}

/// The single paths of what is imported, such as `a::{b, c::{d, e}}`.
fn paths(tree: &str) -> Vec<String> {
    let Some((before, inner)) = tree.split_once('{') else {
        return vec![tree.to_owned()];
    };
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for char in inner.chars() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(char);
    }
    let parts = parts.iter().filter(|part| !part.is_empty());
    let each = parts.flat_map(|part| paths(part));
    each.map(|path| format!("{before}{path}")).collect()
}

/// The rooms that each room uses, and a module that does so.
fn uses_of_rooms(house: &House) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut uses: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for source in sources() {
        if source.is_front_page() && source.package != "postgres" && source.package != "redis" {
            continue;
        }
        let Some(own) = house.room(&source.module) else {
            panic!("{} is in no room of the table", source.module);
        };
        for used in source.uses() {
            let Some(room) = house.room(&used) else {
                panic!(
                    "{} uses {used}, which is in no room of the table",
                    source.module
                );
            };
            if room != own {
                let of_own = uses.entry(own.to_owned()).or_default();
                of_own.insert(room.to_owned(), source.module.clone());
            }
        }
    }
    uses
}

#[test]
fn rooms_use_those_of_their_own_line_and_of_the_lines_above() {
    let house = House::read();
    let uses = uses_of_rooms(&house);
    assert!(uses["store/embedded"].contains_key("store/replay_cache"));
    for (own, used) in uses {
        for (room, module) in used {
            let is_allowed = house.rooms[&room] <= house.rooms[&own];
            assert!(is_allowed, "{module} uses {room}, which is below its room");
        }
    }
}

#[test]
fn no_rooms_go_round_in_a_circle() {
    let mut uses = uses_of_rooms(&House::read());
    // Rooms that use no other are taken away until none is left.
    loop {
        let uses_none: Vec<String> = {
            let all = uses.values().flat_map(BTreeMap::keys).chain(uses.keys());
            let is_done = |room: &&String| uses.get(*room).is_none_or(BTreeMap::is_empty);
            all.filter(is_done).cloned().collect()
        };
        if uses_none.is_empty() {
            break;
        }
        for room in uses_none {
            uses.remove(&room);
            for used in uses.values_mut() {
                used.remove(&room);
            }
        }
    }
    assert!(uses.is_empty(), "there is a circle in {uses:?}");
}

#[test]
fn each_dependency_is_named_where_it_may_be() {
    let house = House::read();
    for source in sources() {
        for (dependency, rooms) in &house.crates {
            let names_it = source.code.contains(&format!("{dependency}::"));
            let may = rooms.iter().any(|room| source.module.starts_with(room));
            assert!(!names_it || may, "{} names {dependency}", source.module);
        }
    }
}

#[test]
fn no_package_is_tested_with_one_that_depends_on_it() {
    let mut depends: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for folder in [
        ".",
        "benches",
        "crates/onceward-http",
        "crates/onceward-postgres",
        "crates/onceward-redis",
        "tests/support",
    ] {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let (_, package) = text.split_once("[package]").unwrap();
        let (_, name) = package.split_once("name = \"").unwrap();
        let (name, _) = name.split_once('"').unwrap();
        let mut is_in_dependencies = false;
        for line in package.lines() {
            if line.starts_with('[') {
                is_in_dependencies = line.contains("dependencies");
            }
            let other = line.split([' ', '.']).next().unwrap();
            if is_in_dependencies && (other.starts_with("onceward") || other == "support") {
                depends
                    .entry(name.to_owned())
                    .or_default()
                    .insert(other.to_owned());
            }
        }
    }
    assert_eq!(depends.get("onceward"), None);
    assert_eq!(depends["support"], BTreeSet::from(["onceward".to_owned()]));
    for (package, of_package) in &depends {
        for other in of_package {
            let back = depends
                .get(other)
                .is_some_and(|others| others.contains(package));
            assert!(!back, "{package} and {other} depend on one another");
        }
    }
}

/// Whether a function's signature begins in this line, wherever it ends.
fn begins_function(line: &str) -> bool {
    const BEFORE: [&str; 5] = ["pub ", "pub(crate) ", "pub(super) ", "async ", "const "];
    let mut rest = line.trim_start();
    if let Some((_, after)) = rest
        .strip_prefix("pub(in ")
        .and_then(|rest| rest.split_once(") "))
    {
        rest = after;
    }
    while let Some(stripped) = BEFORE.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = stripped;
    }
    rest.starts_with("fn ")
}

#[test]
fn files_and_functions_stay_small() {
    for Source { module, code, .. } in sources() {
        assert!(code.lines().count() <= 400, "{module} is too long");
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
                assert!(number - first < 70, "{module}:{first} is too long");
                start = None;
            }
        }
    }
}
