//! Arrows between the files of one room: a file points at another when it names something of it, or when it calls, on
//! `self`, a method that the other file defines for the same type. What a `mod.rs` only declares or passes on is no arrow
//! of its own: who names it through there points at the file that has it.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use crate::tree::{SourceFile, is_for_tests};

type Module = Vec<String>;
type Places = BTreeMap<Module, usize>;

/// One room as a graph: modules by path, and the arrows between them.
pub struct Room {
    modules: Vec<Module>,
    arrows: BTreeMap<usize, BTreeSet<usize>>,
}

/// All paths that a file names, and what its `impl` blocks define and call.
#[derive(Default)]
struct Names {
    paths: Vec<Vec<String>>,
    /// `pub use` in this file: the name, and where it comes from.
    passed_on: Vec<(String, Vec<String>)>,
    /// Type and method.
    defines: Vec<(String, String)>,
    calls: Vec<(String, String)>,
    of: Option<String>,
    facade: bool,
}

fn use_paths(tree: &syn::UseTree, before: &[String], found: &mut Vec<(String, Vec<String>)>) {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => use_paths(&path.tree, &with(&path.ident), found),
        syn::UseTree::Name(name) if name.ident == "self" => {
            found.push((before.last().cloned().unwrap_or_default(), before.to_vec()));
        }
        syn::UseTree::Name(name) => found.push((name.ident.to_string(), with(&name.ident))),
        syn::UseTree::Rename(rename) => found.push((rename.rename.to_string(), with(&rename.ident))),
        syn::UseTree::Glob(_) => found.push(("*".to_owned(), before.to_vec())),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| use_paths(tree, before, found)),
    }
}

impl<'a> Visit<'a> for Names {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        let mut found = Vec::new();
        use_paths(&item.tree, &[], &mut found);
        if self.facade && !matches!(item.vis, syn::Visibility::Inherited) {
            self.passed_on.extend(found);
        } else {
            self.paths.extend(found.into_iter().map(|(_, path)| path));
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.segments.len() > 1 {
            self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    /// Paths inside of macros: `assert!(super::other::fine())`.
    fn visit_macro(&mut self, called: &'a syn::Macro) {
        let mut path: Vec<String> = Vec::new();
        let mut joined = false;
        for token in called.tokens.clone() {
            match token {
                proc_macro2::TokenTree::Ident(ident) if joined || path.is_empty() => path.push(ident.to_string()),
                proc_macro2::TokenTree::Punct(punct) if punct.as_char() == ':' => {}
                _ => {
                    if path.len() > 1 {
                        self.paths.push(path.clone());
                    }
                    path.clear();
                }
            }
            joined = !path.is_empty();
        }
        visit::visit_macro(self, called);
    }

    fn visit_item_impl(&mut self, block: &'a syn::ItemImpl) {
        let syn::Type::Path(of) = &*block.self_ty else { return visit::visit_item_impl(self, block) };
        let of = of.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
        for item in &block.items {
            if let syn::ImplItem::Fn(method) = item {
                self.defines.push((of.clone(), method.sig.ident.to_string()));
            }
        }
        let outer = self.of.replace(of);
        visit::visit_item_impl(self, block);
        self.of = outer;
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        if let (syn::Expr::Path(receiver), Some(of)) = (&*call.receiver, &self.of)
            && receiver.path.is_ident("self")
        {
            self.calls.push((of.clone(), call.method.to_string()));
        }
        visit::visit_expr_method_call(self, call);
    }
}

impl Room {
    /// The room `name` among `files`.
    pub fn read(files: &[SourceFile], name: &str) -> Room {
        let files: Vec<_> = files.iter().filter(|file| file.room() == Some(name) && !file.is_test()).collect();
        let modules: Vec<Module> = files.iter().map(|file| file.module()).collect();
        let names: Vec<Names> = files
            .iter()
            .map(|file| {
                let mut names = Names { facade: file.name.ends_with("/mod.rs"), ..Names::default() };
                names.visit_file(&file.syntax);
                names
            })
            .collect();
        let places: Places = modules.iter().cloned().enumerate().map(|(at, module)| (module, at)).collect();
        let mut passed_on: BTreeMap<(Module, String), Module> = BTreeMap::new();
        for (module, names) in modules.iter().zip(&names) {
            for (name, path) in &names.passed_on {
                if let Some(target) = absolute(module, path, &places) {
                    passed_on.insert((module.clone(), name.clone()), target);
                }
            }
        }
        let mut defined: BTreeMap<&(String, String), usize> = BTreeMap::new();
        for (at, names) in names.iter().enumerate() {
            defined.extend(names.defines.iter().map(|method| (method, at)));
        }
        let mut arrows: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (at, names) in names.iter().enumerate() {
            let named = names.paths.iter().filter_map(|path| absolute(&modules[at], path, &places));
            let named = named.filter_map(|path| file_of(&path, &places, &passed_on));
            let called = names.calls.iter().filter_map(|method| defined.get(method).copied());
            let to = named.chain(called).filter(|to| *to != at);
            arrows.entry(at).or_default().extend(to);
        }
        Room { modules, arrows }
    }

    /// Files that are in a circle with others, each circle sorted.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let reach: Vec<BTreeSet<usize>> = (0..self.modules.len()).map(|from| self.reach(from)).collect();
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        let mut circles = Vec::new();
        for from in 0..self.modules.len() {
            if !reach[from].contains(&from) || seen.contains(&from) {
                continue;
            }
            let circle: Vec<usize> = reach[from].iter().copied().filter(|to| reach[*to].contains(&from)).collect();
            seen.extend(&circle);
            let mut names: Vec<String> = circle.iter().map(|at| self.modules[*at][1..].join("/")).collect();
            names.sort();
            circles.push(names);
        }
        circles
    }

    fn reach(&self, from: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for to in self.arrows.get(&at).into_iter().flatten() {
                if found.insert(*to) {
                    open.push(*to);
                }
            }
        }
        found
    }
}

/// The path from the crate's root, if it can be in the room.
fn absolute(module: &Module, path: &[String], places: &Places) -> Option<Module> {
    let mut here = module.clone();
    let mut rest = path;
    match rest.first().map(String::as_str)? {
        "crate" => return Some(rest[1..].to_vec()),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                here.pop()?;
                rest = &rest[1..];
            }
        }
        first => {
            // A child module, named without `self::`.
            let child = [&here[..], &[first.to_owned()]].concat();
            if !places.contains_key(&child) {
                return None;
            }
        }
    }
    Some([&here[..], rest].concat())
}

/// The file that has what a path names.
fn file_of(path: &Module, places: &Places, passed_on: &BTreeMap<(Module, String), Module>) -> Option<usize> {
    let mut path = path.clone();
    // A facade may pass on what another facade does.
    for _ in 0..4 {
        let deepest = (1..=path.len()).rev().find(|length| places.contains_key(&path[..*length]))?;
        let module = path[..deepest].to_vec();
        match path.get(deepest).and_then(|name| passed_on.get(&(module.clone(), name.clone()))) {
            Some(target) => path = target.clone(),
            None => return places.get(&module).copied(),
        }
    }
    None
}

#[test]
fn a_circle_is_seen_through_names_methods_and_facades() {
    let file = |name: &str, text: &str| SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
        syntax: syn::parse_file(text).unwrap(),
    };
    let named = [file("r/a.rs", "use super::b::B;"), file("r/b.rs", "fn f() { crate::r::a::g() }"), file("r/c.rs", "")];
    assert_eq!(Room::read(&named, "r").circles(), [["a", "b"]]);
    let called = [
        file("r/a.rs", "impl T { fn one(&self) { self.two() } }"),
        file("r/b.rs", "use super::a::T; impl T { fn two(&self) {} }"),
    ];
    assert_eq!(Room::read(&called, "r").circles(), [["a", "b"]]);
    let facade = [
        file("r/mod.rs", "mod a; mod b; pub use a::A;"),
        file("r/a.rs", "use super::b::B;"),
        file("r/b.rs", "use super::A;"),
    ];
    assert_eq!(Room::read(&facade, "r").circles(), [["a", "b"]]);
    let straight = [
        file("r/mod.rs", "mod a; mod b; pub use a::A;"),
        file("r/a.rs", "use super::b::B; #[cfg(test)] mod tests { use super::super::c::C; }"),
        file("r/b.rs", "fn f() { assert!(other::a::A) }"),
        file("r/c.rs", "use super::a::A;"),
    ];
    assert!(Room::read(&straight, "r").circles().is_empty());
}
