//! Writes the table of console files that the binary carries.

use std::path::Path;

const PAGE: &str = "<!doctype html><meta charset=utf-8><title>Weirgate</title>\
<h1>Weirgate runs</h1><p>The console was not built into this binary.</p>";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let table = format!(
        "pub const FILES: &[(&str, &str, &[u8])] = &[(\"/\", \"text/html; charset=utf-8\", {PAGE:?}.as_bytes())];\n"
    );
    std::fs::write(Path::new(&out).join("console.rs"), table).expect("OUT_DIR can be written");
}
