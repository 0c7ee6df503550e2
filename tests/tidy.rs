//! The tree checks itself: layers point one way, files stay small, only the edges read a clock, a socket or randomness,
//! and no work is left open. Reads the sources as text.

use std::fs;
use std::path::{Path, PathBuf};

/// A folder may name itself and whatever its list holds; `base` is everybody's ground.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("wire", &["base"]),
    ("secure", &["base", "wire"]),
    ("media", &["base", "wire", "secure"]),
    ("transport", &["base", "wire", "secure", "media"]),
    ("router", &["base", "wire", "secure", "media", "transport"]),
    ("shard", &["base", "wire", "secure", "media", "transport", "router"]),
    ("net", &["base", "wire", "secure", "media", "transport", "router", "shard"]),
    // The control tower sees the media tower through the door alone, and the types that the door is made of.
    ("signal", &["base", "wire", "shard::command"]),
    ("server", &["base", "shard::command", "signal"]),
    // Beside main: flags mean values of the edges.
    ("config", &["base", "net", "signal"]),
    ("sim", &["base", "wire", "secure", "media", "transport", "router", "shard", "signal"]),
    ("client", &["base", "wire", "secure", "media", "transport", "router", "shard", "signal", "sim"]),
    // Beside the house: another program in the same binary, which main alone calls.
    (
        "load",
        &["base", "wire", "secure", "media", "sim", "client", "net::clock", "net::poll", "net::stamped", "net::udp"],
    ),
];

const LINES_MAX: usize = 600;

/// Words that mean a clock, a socket, a thread or randomness is read.
const EDGE_WORDS: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::thread",
    "rand::rng()",
    "thread_rng",
    "from_os_rng",
    "OsRng",
    "std::fs",
    "std::env::var",
    "socket2::",
    "glommio",
    "libc::",
];

const EDGES: &[&str] = &["net", "server", "client", "load", "config", "config.rs", "main.rs", "machine.rs"];

/// Beside `net`: places where it was measured to pay.
const MAY_BE_UNSAFE: &[&str] = &["base/prefetch.rs", "secure/sha1_lanes.rs"];

const OPEN_WORK: &[&str] = &["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX", "#[ignore"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn tree() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&root.join("src"), &mut found);
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root.join("src")).unwrap().to_string_lossy().replace('\\', "/");
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The file without its unit tests, which may look anywhere.
fn production(text: &str) -> &str {
    text.find("#[cfg(test)]").map_or(text, |at| &text[..at])
}

fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs")
}

/// What `crate::` paths a file names, braces one level deep taken apart.
fn named(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches(':');
        if path.is_empty() && rest.starts_with('{') {
            let inner = &rest[1..rest.find('}').unwrap_or(rest.len())];
            paths.extend(inner.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()));
        } else {
            paths.push(path.to_owned());
        }
    }
    paths
}

#[test]
fn layers_point_one_way() {
    let mut wrong = Vec::new();
    for (file, text) in tree() {
        let Some((folder, _)) = file.split_once('/').filter(|_| !is_test(&file)) else { continue };
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == folder) else {
            wrong.push(format!("{file}: folder {folder} is in no layer"));
            continue;
        };
        for path in named(production(&text)) {
            let first = path.split("::").next().unwrap_or_default();
            let fine = first == folder
                || allowed.iter().any(|allowed| path == *allowed || path.starts_with(&format!("{allowed}::")));
            if !fine {
                wrong.push(format!("{file} names {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "lower never names higher (tests/tidy.rs, MAY_NAME):\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_one_room() {
    let long: Vec<_> = tree()
        .into_iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines, split by mechanism: {long:?}");
}

#[test]
fn only_the_edges_touch_the_world() {
    let mut wrong = Vec::new();
    for (file, text) in tree() {
        let folder = file.split('/').next().unwrap_or_default();
        if EDGES.contains(&folder) {
            continue;
        }
        for word in EDGE_WORDS {
            if production(&text).contains(word) && !is_test(&file) {
                wrong.push(format!("{file} uses {word}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "clock, socket and randomness belong to net, server, client, load, main:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_work_is_left_open() {
    let mut open = Vec::new();
    for (file, text) in tree() {
        open.extend(OPEN_WORK.iter().filter(|word| text.contains(**word)).map(|word| format!("{file}: {word}")));
    }
    assert!(open.is_empty(), "{}", open.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> = tree()
        .into_iter()
        .map(|(file, text)| (is_test(&file), file, text))
        .filter(|(test, _, text)| !test && !text.starts_with("//!"))
        .map(|(_, file, _)| file)
        .collect();
    assert!(
        silent.is_empty(),
        "a module starts with a few lines: what it is, what it is not, who calls it: {silent:?}"
    );
}

#[test]
fn unsafe_code_is_fenced() {
    let mut wrong = Vec::new();
    for (file, text) in tree() {
        if text.contains("unsafe {") && !file.starts_with("net/") && !MAY_BE_UNSAFE.contains(&file.as_str()) {
            wrong.push(file);
        }
    }
    assert!(wrong.is_empty(), "unsafe belongs to net/ and to {MAY_BE_UNSAFE:?}: {wrong:?}");
}
