//! The sources of the crate, read once: each file with its text and its syntax.

use std::fs;
use std::path::{Path, PathBuf};

pub struct SourceFile {
    /// Below `src`: `shard/shard.rs`.
    pub name: String,
    pub text: String,
    pub syntax: syn::File,
}

impl SourceFile {
    /// A file of unit tests, which may look anywhere.
    pub fn is_test(&self) -> bool {
        self.name.ends_with("tests.rs")
    }

    /// The folder directly below `src`, if the file is in one.
    pub fn room(&self) -> Option<&str> {
        self.name.split_once('/').map(|(room, _)| room)
    }

    /// The module path: `shard/mod.rs` is `[shard]`, `shard/shard.rs` is `[shard, shard]`.
    pub fn module(&self) -> Vec<String> {
        let stem = self.name.strip_suffix(".rs").expect("it is Rust");
        let mut parts: Vec<String> = stem.split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| last == "mod") {
            parts.pop();
        }
        parts
    }
}

fn paths(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        // Other people's code.
        if path.ends_with("node_modules") {
            continue;
        }
        if path.is_dir() {
            paths(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Path and text of every Rust file in a folder of the repository.
pub fn texts(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    paths(&root, &mut found);
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

pub fn sources() -> Vec<SourceFile> {
    let parse = |(name, text): (String, String)| {
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        SourceFile { name, text, syntax }
    };
    texts("src").into_iter().map(parse).collect()
}

/// Whether an item is compiled into tests alone.
pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}
