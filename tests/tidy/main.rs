//! The tree checks itself: layers point one way, files stay small, only the edges read a clock, a socket or randomness,
//! no room grows circles or long functions, a type's name means one thing, and no work is left open.

mod arrows;
mod functions;
mod names;
mod tree;

use arrows::Room;
use tree::{SourceFile, sources, texts};

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
    // Beside signalling: who somebody is, out of a text that a key has signed.
    ("token", &["base", "signal"]),
    ("server", &["base", "shard::command", "signal", "token"]),
    // Beside main: flags mean values of the edges.
    ("config", &["base", "net", "signal"]),
    ("sim", &["base", "wire", "secure", "media", "transport", "router", "shard", "signal"]),
    ("client", &["base", "wire", "secure", "media", "transport", "router", "shard", "signal", "sim"]),
    // Beside the house: another program in the same binary, which main alone calls.
    (
        "load",
        &[
            "base",
            "wire",
            "secure",
            "media",
            "sim",
            "client",
            "net::clock",
            "net::udp::poll",
            "net::udp::socket",
            "net::udp::stamped",
        ],
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

const EDGES: &[&str] =
    &["net", "server", "client", "load", "config", "config.rs", "main.rs", "machine.rs", "mint.rs", "joining.rs"];

/// The client of the cluster's engine, and the files that may know it: the bus by an engine, and the filter of its log
/// lines.
const ENGINE_CLIENT: (&str, &[&str]) = ("async_nats", &["server/bus/nats.rs", "config/value.rs"]);

/// Beside `net`: what was measured to pay.
const MAY_BE_UNSAFE: &[&str] = &["base/prefetch.rs", "secure/srtp/sha1_lanes.rs"];

/// Files of a room that are in circles with each other, as many as there are today: the number only falls.
const IN_CIRCLES: &[(&str, usize)] = &[];

const FUNCTION_LINES_MAX: usize = 70;

/// Longer ones, as they are today: the list only gets shorter.
const LONG_FUNCTIONS: &[&str] = &[];

/// Names that two types have which leave their files, each with the reason: the list only gets shorter.
const OF_TWO_TYPES: &[(&str, &str)] = &[
    ("Consumer", "signalling's record of one, and the media tower's own"),
    ("Indication", "the simulation writes descriptors without the parser's types, which it judges"),
    ("Producer", "signalling's record of one, and the media tower's own"),
    ("Transport", "signalling's record of one, and the media tower's own"),
];

const OPEN_WORK: &[&str] = &["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX", "#[ignore"];

/// The file without its unit tests, which may look anywhere.
fn production(text: &str) -> &str {
    text.find("#[cfg(test)]").map_or(text, |at| &text[..at])
}

/// The `crate::` paths that a file names, braces one level deep taken apart.
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
    for source in sources() {
        let (file, Some(folder)) = (&source.name, source.room().filter(|_| !source.is_test())) else { continue };
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == folder) else {
            wrong.push(format!("{file}: folder {folder} is in no layer"));
            continue;
        };
        for path in named(production(&source.text)) {
            let first = path.split("::").next().unwrap_or_default();
            let fine = first == folder
                || allowed.iter().any(|allowed| path == *allowed || path.starts_with(&format!("{allowed}::")));
            if !fine {
                wrong.push(format!("{file} names {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "lower never names higher (tests/tidy/main.rs, MAY_NAME):\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_one_room() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|source| (source.text.lines().count(), source.name))
        .map(|(lines, file)| (file, lines))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines, split by mechanism: {long:?}");
}

#[test]
fn only_the_edges_touch_the_world() {
    let mut wrong = Vec::new();
    for source in sources() {
        let file = &source.name;
        if EDGES.contains(&source.room().unwrap_or(file)) || source.is_test() {
            continue;
        }
        let text = production(&source.text);
        wrong.extend(EDGE_WORDS.iter().filter(|word| text.contains(**word)).map(|word| format!("{file} uses {word}")));
    }
    assert!(
        wrong.is_empty(),
        "clock, socket and randomness belong to net, server, client, load, main:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn one_file_knows_the_engine_of_a_cluster() {
    let (client, known) = ENGINE_CLIENT;
    let naming = sources().into_iter().filter(|source| source.text.contains(client)).map(|source| source.name);
    let wrong: Vec<_> = naming.filter(|name| !known.contains(&name.as_str())).collect();
    assert!(wrong.is_empty(), "the bus is src/server/bus, whatever is behind it: {wrong:?}");
}

#[test]
fn no_work_is_left_open() {
    let mut open = Vec::new();
    for SourceFile { name, text, .. } in sources() {
        open.extend(OPEN_WORK.iter().filter(|word| text.contains(**word)).map(|word| format!("{name}: {word}")));
    }
    assert!(open.is_empty(), "{}", open.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|source| !source.is_test() && !source.text.starts_with("//!"))
        .map(|source| source.name)
        .collect();
    assert!(
        silent.is_empty(),
        "a module starts with a few lines: what it is, what it is not, who calls it: {silent:?}"
    );
}

#[test]
fn unsafe_code_is_fenced() {
    let mut wrong = Vec::new();
    for SourceFile { name, text, .. } in sources() {
        if text.contains("unsafe {") && !name.starts_with("net/") && !MAY_BE_UNSAFE.contains(&name.as_str()) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "unsafe belongs to net/ and to {MAY_BE_UNSAFE:?}: {wrong:?}");
}

#[test]
fn circles_between_files_of_a_room_only_get_fewer() {
    let files = sources();
    let mut wrong = Vec::new();
    for (room, _) in MAY_NAME {
        let circles = Room::read(&files, room).circles();
        let now = circles.iter().map(Vec::len).sum::<usize>();
        let known = IN_CIRCLES.iter().find(|(name, _)| name == room).map_or(0, |(_, count)| *count);
        if now != known {
            wrong.push(format!(
                "{room}: {now} files in circles, {known} in tests/tidy/main.rs (IN_CIRCLES): {circles:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn long_functions_only_get_fewer() {
    let now = functions::longer_than(FUNCTION_LINES_MAX, &sources());
    let new: Vec<_> = now.iter().filter(|name| !LONG_FUNCTIONS.contains(&name.as_str())).collect();
    assert!(new.is_empty(), "over {FUNCTION_LINES_MAX} lines, one thought a function: {new:?}");
    let gone: Vec<_> = LONG_FUNCTIONS.iter().filter(|name| !now.iter().any(|now| now == *name)).collect();
    assert!(gone.is_empty(), "shorter now, to be taken off LONG_FUNCTIONS: {gone:?}");
}

#[test]
fn what_is_public_is_used_elsewhere() {
    let users: Vec<String> = ["tests", "benches", "fuzz/fuzz_targets"]
        .iter()
        .flat_map(|folder| texts(folder))
        .map(|(_, text)| text)
        .collect();
    let unused = functions::used_by_nobody(&sources(), &users);
    assert!(unused.is_empty(), "public and named in no other file: {unused:?}");
}

#[test]
fn a_name_means_one_type() {
    let files = sources();
    let now = names::of_two_types(&files);
    let known = |name: &String| OF_TWO_TYPES.iter().any(|(known, _)| known == name);
    let new: Vec<_> = now.iter().filter(|(name, _)| !known(name)).collect();
    assert!(new.is_empty(), "one word for two types; rename one of them: {new:?}");
    let gone: Vec<_> = OF_TWO_TYPES.iter().filter(|(name, _)| !now.contains_key(*name)).collect();
    assert!(gone.is_empty(), "of one type by now, to be taken off OF_TWO_TYPES: {gone:?}");
    let hiding = names::hiding_the_prelude(&files);
    assert!(hiding.is_empty(), "a name of the prelude's: {hiding:?}");
}
