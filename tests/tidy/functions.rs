//! Long functions, and public ones that nobody uses.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};

use crate::tree::{SourceFile, is_for_tests};

#[derive(Default)]
struct Functions {
    /// Name and lines.
    all: Vec<(String, usize)>,
    /// Functions and constants that are `pub` without a bound.
    public: Vec<String>,
}

fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

impl Functions {
    fn add(&mut self, signature: &syn::Signature, end: proc_macro2::Span, visibility: &syn::Visibility) {
        let name = signature.ident.to_string();
        let lines = end.end().line - signature.fn_token.span.start().line + 1;
        if is_public(visibility) {
            self.public.push(name.clone());
        }
        self.all.push((name, lines));
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.add(&item.sig, item.block.brace_token.span.close(), &item.vis);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.add(&item.sig, item.block.brace_token.span.close(), &item.vis);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        if is_public(&item.vis) {
            self.public.push(item.ident.to_string());
        }
    }

    fn visit_impl_item_const(&mut self, item: &'a syn::ImplItemConst) {
        if is_public(&item.vis) {
            self.public.push(item.ident.to_string());
        }
    }
}

fn functions(file: &SourceFile) -> Functions {
    let mut found = Functions::default();
    found.visit_file(&file.syntax);
    found
}

/// Functions of more than `max` lines, as `shard/stats.rs metrics`.
pub fn longer_than(max: usize, files: &[SourceFile]) -> Vec<String> {
    let mut long = Vec::new();
    for file in files {
        let functions = functions(file).all;
        long.extend(
            functions.into_iter().filter(|(_, lines)| *lines > max).map(|(name, _)| format!("{} {name}", file.name)),
        );
    }
    long
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect()
}

/// The file without its unit tests, which stand at its end.
fn without_tests(file: &SourceFile) -> &str {
    match file.is_test() {
        true => "",
        false => file.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default(),
    }
}

/// Public functions and constants whose names stand in no other file: of `src` without its unit tests, or of the `users`
/// beside it.
pub fn used_by_nobody(files: &[SourceFile], users: &[String]) -> Vec<String> {
    let outside: BTreeSet<&str> = users.iter().flat_map(|text| words(text)).collect();
    let inside: Vec<BTreeSet<&str>> = files.iter().map(|file| words(without_tests(file))).collect();
    let mut unused = Vec::new();
    for (at, file) in files.iter().enumerate().filter(|(_, file)| !file.is_test()) {
        for name in functions(file).public {
            let elsewhere =
                inside.iter().enumerate().any(|(other, words)| other != at && words.contains(name.as_str()));
            if !elsewhere && !outside.contains(name.as_str()) {
                unused.push(format!("{} {name}", file.name));
            }
        }
    }
    unused
}

#[test]
fn what_is_long_and_what_nobody_uses_is_found() {
    let file = |name: &str, text: &str| SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
        syntax: syn::parse_file(text).unwrap(),
    };
    let long = "#[doc(hidden)]\npub fn long() {\n\n\n}\npub const USED: u8 = 1;\nfn own() {}\n";
    let files =
        [file("a.rs", long), file("b.rs", "use a::USED;\n#[cfg(test)]\nmod tests {\n pub fn f() {\n\n\n\n}\n}")];
    assert_eq!(longer_than(3, &files), ["a.rs long"]);
    assert_eq!(used_by_nobody(&files, &[]), ["a.rs long"]);
    assert!(used_by_nobody(&files, &["long()".to_owned()]).is_empty());
    let of_tests = [
        file("a.rs", "pub fn tested() {}"),
        file("b.rs", "#[cfg(test)]\nmod tests { use a::tested; }"),
        file("c_tests.rs", "use a::tested; pub fn helper() {}"),
    ];
    assert_eq!(used_by_nobody(&of_tests, &[]), ["a.rs tested"]);
}
