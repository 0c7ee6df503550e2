//! Bundles console/ and the npm packages it uses, and writes the table of files that the binary carries
//! (`src/server/console.rs`). Works on a copy under OUT_DIR: the source tree is only read. Without npm, or when the
//! packages cannot be had, the build succeeds all the same and the page says what is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "console";
/// What esbuild starts from; each becomes one file of the same name.
const SCRIPTS: &[&str] = &["main.js", "pattern-worker.js"];
const MODULES: &[&str] = &[
    "bearer.js",
    "call.js",
    "chat.js",
    "comeback.js",
    "moderation.js",
    "picture.js",
    "signalling.js",
    "sources.js",
    "tiles.js",
    "words.js",
];
const PACKAGE: &[&str] = &["package.json", "package-lock.json"];
/// Carried as they are.
const PLAIN: &[&str] = &["style.css", "icon.svg"];
const PAGE: &str = "index.html";
const PAGE_WITHOUT_CONSOLE: &str = "missing.html";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_EDGE").is_none() {
        return;
    }
    let all = [SCRIPTS, MODULES, PACKAGE, PLAIN, &[PAGE, PAGE_WITHOUT_CONSOLE]].concat();
    for file in &all {
        println!("cargo::rerun-if-changed={SOURCE}/{file}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let work = out.join(SOURCE);
    fs::create_dir_all(&work).expect("OUT_DIR can be written");
    let installed = same(&work.join("package-lock.json"), &Path::new(SOURCE).join("package-lock.json"))
        && work.join("node_modules/.package-lock.json").exists();
    for file in &all {
        fs::copy(Path::new(SOURCE).join(file), work.join(file))
            .unwrap_or_else(|error| panic!("{SOURCE}/{file} cannot be copied to {}: {error}", work.display()));
    }
    let bundled = if installed { Ok(()) } else { install(&work) }.and_then(|()| bundle(&work));

    let mut served: Vec<(String, &str, PathBuf)> = Vec::new();
    match bundled {
        Ok(()) => {
            served.push(("/".to_owned(), "text/html; charset=utf-8", work.join(PAGE)));
            for script in SCRIPTS {
                served.push((format!("/{script}"), "text/javascript; charset=utf-8", work.join("bundle").join(script)));
            }
        }
        Err(why) => {
            println!("cargo::warning=the console is left out of the binary, its page says so: {why}");
            let page = fs::read_to_string(work.join(PAGE_WITHOUT_CONSOLE)).expect("it was copied here just now");
            let path = work.join("without-console.html");
            fs::write(&path, page.replace("<!--reason-->", &escaped(&why))).expect("OUT_DIR can be written");
            served.push(("/".to_owned(), "text/html; charset=utf-8", path));
        }
    }
    for file in PLAIN {
        let mime = if file.ends_with(".css") { "text/css; charset=utf-8" } else { "image/svg+xml" };
        served.push((format!("/{file}"), mime, work.join(file)));
    }
    let rows: Vec<String> = served
        .iter()
        .map(|(path, mime, file)| format!("    ({path:?}, {mime:?}, include_bytes!({file:?})),\n"))
        .collect();
    let table = format!("pub const FILES: &[(&str, &str, &[u8])] = &[\n{}];\n", rows.concat());
    fs::write(out.join("console.rs"), table).expect("OUT_DIR can be written");
}

fn same(one: &Path, other: &Path) -> bool {
    matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}

/// No package's own script is run; without a network npm gives up soon.
fn install(work: &Path) -> Result<(), String> {
    let arguments = [
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        "--prefer-offline",
        "--fetch-retries=1",
        "--fetch-timeout=30000",
        "--loglevel=error",
    ];
    run("npm", Command::new("npm").args(arguments).current_dir(work), "could not install the console's packages")
}

fn bundle(work: &Path) -> Result<(), String> {
    let mut esbuild = Command::new("node");
    esbuild.arg("node_modules/esbuild/bin/esbuild").args(SCRIPTS).current_dir(work);
    esbuild.args(["--bundle", "--format=esm", "--target=es2022", "--minify", "--outdir=bundle", "--log-level=warning"]);
    run("node", &mut esbuild, "could not bundle the console")
}

fn run(program: &str, command: &mut Command, failed: &str) -> Result<(), String> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(format!("{program} was not found")),
        Err(error) => return Err(format!("{program} could not be started ({error})")),
    };
    if output.status.success() {
        return Ok(());
    }
    // The first line of an error says the most.
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().map(str::trim).find(|line| line.contains("rror")).unwrap_or("no reason given");
    Err(format!("{program} {failed} ({line})"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
