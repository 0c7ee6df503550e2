//! Names of types: one that leaves its file is defined once, and none hides one of the prelude's.

use std::collections::BTreeMap;

use crate::tree::{SourceFile, is_for_tests};

const PRELUDE: &[&str] = &[
    "AsMut",
    "AsRef",
    "Box",
    "Clone",
    "Copy",
    "Default",
    "Drop",
    "Eq",
    "Extend",
    "Fn",
    "FnMut",
    "FnOnce",
    "From",
    "Into",
    "IntoIterator",
    "Iterator",
    "Option",
    "Ord",
    "PartialEq",
    "PartialOrd",
    "Result",
    "Send",
    "Sized",
    "String",
    "Sync",
    "ToOwned",
    "ToString",
    "TryFrom",
    "TryInto",
    "Unpin",
    "Vec",
];

/// A type that a file defines, and whether it can be named outside of the file.
struct Definition {
    name: String,
    leaves: bool,
}

fn definitions(items: &[syn::Item], found: &mut Vec<Definition>) {
    for item in items {
        let (attributes, visibility, name) = match item {
            syn::Item::Struct(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Enum(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Union(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Trait(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Type(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Mod(item) if !is_for_tests(&item.attrs) => {
                definitions(item.content.as_ref().map_or(&[], |(_, items)| items), found);
                continue;
            }
            _ => continue,
        };
        if !is_for_tests(attributes) {
            let leaves = !matches!(visibility, syn::Visibility::Inherited);
            found.push(Definition { name: name.to_string(), leaves });
        }
    }
}

fn all(files: &[SourceFile]) -> impl Iterator<Item = (&SourceFile, Definition)> {
    files.iter().filter(|file| !file.is_test()).flat_map(|file| {
        let mut found = Vec::new();
        definitions(&file.syntax.items, &mut found);
        found.into_iter().map(move |definition| (file, definition))
    })
}

/// Types that leave their files under a name that another file gives to one that leaves it, with those files.
pub fn of_two_types(files: &[SourceFile]) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, Definition { name, .. }) in all(files).filter(|(_, definition)| definition.leaves) {
        let places = places.entry(name).or_default();
        if !places.contains(&file.name) {
            places.push(file.name.clone());
        }
    }
    places.retain(|_, places| places.len() > 1);
    places
}

/// Types whose names hide those of the prelude, as `shard/drops.rs Drop`.
pub fn hiding_the_prelude(files: &[SourceFile]) -> Vec<String> {
    let hiding = all(files).filter(|(_, definition)| PRELUDE.contains(&definition.name.as_str()));
    hiding.map(|(file, definition)| format!("{} {}", file.name, definition.name)).collect()
}

#[test]
fn a_name_of_two_types_and_one_of_the_preludes_are_found() {
    let file = |name: &str, text: &str| SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
        syntax: syn::parse_file(text).unwrap(),
    };
    let files = [
        file("a.rs", "pub struct Twice; struct Own; pub(super) enum Once {} #[cfg(test)] pub struct Test;"),
        file(
            "b.rs",
            "pub(super) type Twice = u8; struct Own; #[cfg(test)] mod tests { pub struct Once; struct Test; }",
        ),
        file("c.rs", "mod inner { enum Drop {} } pub struct Test; pub struct Own;"),
    ];
    let twice = BTreeMap::from([("Twice".to_owned(), vec!["a.rs".to_owned(), "b.rs".to_owned()])]);
    assert_eq!(of_two_types(&files), twice);
    assert_eq!(hiding_the_prelude(&files), ["c.rs Drop"]);
}
