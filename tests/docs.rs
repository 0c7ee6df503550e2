//! The documents against the program: links lead somewhere, named files exist, and every setting, metric and drop
//! reason is documented as the program has it, no more and no less.
#![cfg(feature = "edge")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use weirgate::config::{Config, Loaded};

type Names = BTreeSet<String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every document, by its path from the root.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 10, "{found:?}");
    found
}

/// The text without fenced blocks.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The contents of fences of this language.
fn fenced(text: &str, language: &str) -> String {
    let opening = format!("{language}\n");
    text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(opening.as_str())).collect()
}

/// The words between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The anchors of a document's headings, as they are made on the hosts that show it.
fn anchors(text: &str) -> Names {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings
        .map(|heading| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
        .collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let (mut broken, mut seen) = (Vec::new(), 0);
    for (document, text) in documents() {
        let text = prose(&text);
        let folder = root().join(document.parent().unwrap());
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            seen += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { root().join(&document) } else { folder.join(file) };
            let leads = path.exists()
                && (anchor.is_empty() || anchors(&prose(&fs::read_to_string(&path).unwrap())).contains(anchor));
            if !leads {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty() && seen > 30, "{seen} links, of which these lead nowhere: {broken:#?}");
}

#[test]
fn every_file_that_is_named_exists() {
    let (mut missing, mut seen) = (Vec::new(), 0);
    for (document, text) in documents() {
        for name in quoted(&prose(&text)) {
            let is_path = ["src/", "tests/", "benches", "fuzz/", "docs/"].iter().any(|folder| name.starts_with(folder));
            if is_path && !name.contains([' ', '*']) && !name.contains("::") {
                seen += 1;
                if !root().join(name).exists() {
                    missing.push(format!("{}: {name}", document.display()));
                }
            }
        }
    }
    assert!(missing.is_empty() && seen > 80, "{seen} names, of which these are of no file: {missing:#?}");
}

/// `tests/FILE::NAME`, a function in Rust and a title in JavaScript.
#[test]
fn every_test_that_is_named_exists() {
    let (mut missing, mut seen) = (Vec::new(), 0);
    for (document, text) in documents() {
        for name in quoted(&prose(&text)).filter(|name| name.starts_with("tests/") || name.starts_with("src/")) {
            let Some((file, test)) = name.split_once("::") else { continue };
            seen += 1;
            let source = fs::read_to_string(root().join(file)).unwrap_or_default();
            let marks = [format!("#[test]\nfn {test}("), format!("    fn {test}("), format!("test('{test}',")];
            if !marks.iter().any(|mark| source.contains(mark)) {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty() && seen > 30, "{seen} names, of which these are of no test: {missing:#?}");
    let security = read("docs/SECURITY.md");
    let promises = security.split("\n## What is promised\n").nth(1).unwrap().split("\n## ").next().unwrap();
    for row in promises.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise")) {
        assert!(quoted(row).any(|name| name.contains("::")), "no test shows it: {row}");
    }
}

#[test]
fn every_decision_is_in_the_list() {
    let list = read("docs/decisions/README.md");
    let mut pages = 0;
    for (document, text) in documents() {
        let name = document.file_name().unwrap().to_string_lossy();
        if document.starts_with("docs/decisions") && name != "README.md" {
            pages += 1;
            assert!(list.contains(&format!("[{}]({name})", &name[..4])), "{name} is not in docs/decisions/README.md");
            assert!(text.starts_with(&format!("# {}: ", &name[..4])), "{name} has another number in its title");
            for section in ["\n## Context\n", "\n## Decision\n", "\n## Consequences\n"] {
                assert!(text.contains(section), "{name} lacks {}", section.trim());
            }
            assert!(text.lines().count() <= 60, "{name} is longer than a page");
        }
    }
    assert_eq!(list.matches("| [0").count(), pages);
}

/// Words of `--help` that start like this, the common ones of every program left out.
fn of_help(start: &str) -> Names {
    let args = ["weirgate", "--help"].map(OsString::from);
    let Ok(Loaded::Print(help)) = Config::load(args, &[0]) else { panic!("--help prints") };
    let words = help.split(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_')));
    let kept = words.filter(|word| word.len() > start.len() && word.starts_with(start));
    kept.filter(|word| !matches!(*word, "--help" | "--version")).map(str::to_owned).collect()
}

/// The first words of the rows of a document's tables: name, and what stands beside it.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}")) + heading.len() + 2;
    let level = heading.split(' ').next().unwrap();
    let section = text[start..].split(&format!("\n{level} ")).next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn every_setting_is_documented() {
    let operations = read("docs/OPERATIONS.md");
    let (mut flags, mut variables) = (Names::new(), Names::new());
    for row in rows(&operations, "## Settings") {
        flags.extend(quoted(row[0]).filter_map(|flag| flag.split(' ').next()).map(str::to_owned));
        variables.extend(quoted(row[1]).map(str::to_owned));
    }
    assert_eq!(flags, of_help("--"));
    assert_eq!(variables, of_help("WEIRGATE_"));
    let help = weirgate::load::help();
    let words = help.split(|c: char| !(c.is_alphanumeric() || c == '-'));
    let of_load: Names =
        words.filter(|word| word.len() > 2 && word.starts_with("--") && *word != "--help").map(str::to_owned).collect();
    let documented = rows(&operations, "## Measuring a server");
    let documented: Names = documented
        .iter()
        .flat_map(|row| quoted(row[0]))
        .filter_map(|flag| flag.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(documented, of_load);
    flags.extend(of_load);
    for (document, text) in documents() {
        let text = prose(&text);
        let named = quoted(&text).filter(|name| name.starts_with("--")).filter_map(|name| name.split(' ').next());
        for name in named.filter(|name| !matches!(*name, "--help" | "--version" | "--cap-add")) {
            assert!(flags.contains(name), "{} names {name}", document.display());
        }
    }
}

#[test]
fn the_file_in_the_documents_is_accepted() {
    let example = fenced(&read("docs/OPERATIONS.md"), "toml");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("documented.toml");
    fs::write(&path, &example).unwrap();
    let args = ["weirgate".as_ref(), "--config".as_ref(), path.as_os_str()].map(OsString::from);
    let cpus: Vec<usize> = (0..8).collect();
    let Loaded::Run(config) = Config::load(args, &cpus).unwrap_or_else(|error| panic!("{error}")) else {
        panic!("a file asks for no help")
    };
    assert_eq!((config.rtc_listen.len(), config.cores.len()), (2, 6));
    for name in of_help("--").iter().filter(|name| !matches!(name.as_str(), "--config" | "--steering")) {
        assert!(example.contains(&format!("{} = ", &name[2..])), "{name} is not in the example");
    }
}

/// Words of a command that begin with two dashes, without what they are set to.
fn flags_of(words: &[&str]) -> Vec<String> {
    let flags = words.iter().filter(|word| word.starts_with("--"));
    flags.map(|flag| flag.split('=').next().unwrap().to_owned()).collect()
}

/// Checks a command of the documents: its program, its options and the files that it names.
fn assert_command_exists(command: &str, readme: &str) {
    let manifest = read("Cargo.toml");
    let words: Vec<&str> = command.split('#').next().unwrap().split_whitespace().collect();
    match words[..] {
        ["cargo", "run", "--release"] => assert!(manifest.contains("default-run = \"weirgate\"")),
        ["cargo", "build", "--release"] => {}
        ["cargo", "bench", "--bench", name] | ["cargo", "bench", "--bench", name, "--no-run"] => {
            let found = manifest.contains(&format!("[[bench]]\nname = \"{name}\""));
            assert!(found, "there is no bench {name}");
        }
        ["cargo", "bench", "--bench", name, "--", ref rest @ ..]
            if manifest.contains(&format!("name = \"{name}\"")) =>
        {
            let text = read(&format!("benches/{name}.rs"));
            for flag in flags_of(rest) {
                assert!(text.contains(&format!("\"{flag}\"")), "benches/{name}.rs does not know {flag}");
            }
        }
        ["cargo", "test", ref rest @ ..] => {
            let name = rest[rest.iter().position(|word| *word == "--test").expect("it names its file") + 1];
            assert!(root().join(format!("tests/{name}.rs")).exists(), "there is no tests/{name}.rs");
        }
        ["weirgate", "load", ref rest @ ..] => {
            let help = weirgate::load::help();
            for flag in flags_of(rest) {
                assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")), "{command}: {flag}");
            }
        }
        ["weirgate", ref rest @ ..] => {
            let help = read("tests/data/help.txt");
            for flag in flags_of(rest) {
                assert!(help.contains(&format!("{flag} ")), "{command}: {flag}");
            }
        }
        ["npm", "install", ..] => {}
        ["npm", "ci", "--prefix", folder] => assert!(root().join(folder).join("package-lock.json").exists()),
        ["npx", "esbuild", page, ..] => assert!(readme.contains(&format!("`{page}`")), "no listing is {page}"),
        [script, ref rest @ ..] if root().join(script).is_file() => {
            let executable = fs::metadata(root().join(script)).unwrap().permissions().mode() & 0o111 != 0;
            assert!(executable, "{script} is not executable");
            let text = read(script);
            for flag in flags_of(rest) {
                assert!(text.contains(flag.trim_start_matches('-')), "{script} does not know {flag}");
            }
        }
        _ => panic!("this test does not know {command}"),
    }
}

#[test]
fn the_commands_of_the_readme_and_the_figures_exist() {
    let readme = read("README.md");
    let mut seen = 0;
    for document in ["README.md", "docs/FIGURES.md"] {
        for command in fenced(&read(document), "sh").lines().flat_map(|line| line.split(" && ")) {
            seen += 1;
            let settings = command.split(' ').take_while(|word| word.contains('=') && !word.starts_with('-')).count();
            let command: Vec<&str> = command.split(' ').skip(settings).collect();
            assert_command_exists(&command.join(" "), &readme);
        }
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn the_readmes_client_speaks_the_five_messages_and_no_unknown_one() {
    let client = fenced(&read("README.md"), "js");
    let protocol = read("docs/PROTOCOL.md");
    let five = protocol.split("\n## ").find(|section| section.starts_with("The five messages")).unwrap();
    let five: Names = five.split("\n### ").skip(1).map(|message| message.lines().next().unwrap().to_owned()).collect();
    let further: Names =
        rows(&protocol, "## Further requests").iter().flat_map(|row| quoted(row[0])).map(str::to_owned).collect();
    let used: Names =
        client.split("request('").skip(1).map(|rest| rest.split('\'').next().unwrap().to_owned()).collect();
    assert!(five.is_subset(&used), "{used:?}");
    assert!(used.iter().all(|message| five.contains(message) || further.contains(message)), "{used:?}");
    let heard = client.split("type === '").skip(1).map(|rest| rest.split('\'').next().unwrap());
    for notification in heard {
        assert!(protocol.contains(&format!("\"type\": \"{notification}\"")), "nobody is told {notification}");
    }
}

/// The program, killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The files of a cluster of one node.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let place = Place(std::env::temp_dir().join(format!("weirgate-docs-{}-{number}", std::process::id())));
        fs::create_dir_all(&place.0).unwrap();
        fs::write(place.0.join("key"), format!("1:{}\n", "ab".repeat(32))).unwrap();
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program's /metrics.
fn metrics() -> String {
    let media = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.args(["--cores", "1", "--rtc-listen", &media.to_string()]);
    // A node of a cluster has all of them. It needs no engine for that.
    let place = Place::new();
    command.args(["--cluster", &format!("unix:{}", place.0.join("bus").display())]);
    command.args(["--cluster-key", place.0.join("key").to_str().unwrap()]);
    for name in of_help("WEIRGATE_") {
        command.env_remove(name);
    }
    let mut program = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let admin = lines.find_map(|line| line.unwrap().trim().strip_prefix("admin").map(str::to_owned));
    let admin = admin.expect("it says where the metrics are");
    let at = admin.trim().trim_start_matches("http://").trim_end_matches("/metrics");

    let mut connection = TcpStream::connect(at).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: weirgate\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    connection.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("# EOF\n"), "{page}");
    page
}

/// The values of one label of one metric.
fn labels(page: &str, metric: &str, label: &str) -> Names {
    let samples = page.lines().filter(|line| line.starts_with(metric));
    let values = samples.filter_map(|line| line.split_once(&format!("{label}=\""))?.1.split('"').next());
    values.map(str::to_owned).collect()
}

#[test]
fn every_metric_and_drop_reason_is_documented() {
    let page = metrics();
    let operations = read("docs/OPERATIONS.md");
    let tables = rows(&operations, "## Metrics");
    let mut documented: Names = tables.iter().flat_map(|row| quoted(row[0])).map(str::to_owned).collect();
    documented.insert("weirgate_dropped_packets_total".to_owned());
    assert_eq!(documented, names_of(&page));
    assert!(operations.contains("`weirgate_dropped_packets_total` has one series"));

    let reasons: Names = rows(&operations, "## Why packets are dropped")
        .iter()
        .flat_map(|row| quoted(row[0]))
        .map(str::to_owned)
        .collect();
    assert_eq!(reasons, labels(&page, "weirgate_dropped_packets_total", "why"));

    let frozen: Names = rows(&operations, "## A user says it is frozen")
        .iter()
        .flat_map(|row| quoted(row[0]))
        .map(str::to_owned)
        .collect();
    assert_eq!(frozen, labels(&page, "weirgate_consumer_verdicts", "verdict"));

    for (metric, label) in [("weirgate_bus_unopened_total", "why"), ("weirgate_bus_messages_total", "type")] {
        let row = tables.iter().find(|row| row[0] == format!("`{metric}`")).unwrap();
        let named: Names = quoted(row[1]).map(str::to_owned).collect();
        assert!(labels(&page, metric, label).is_subset(&named), "{metric}: {named:?}");
    }

    let closed = tables.iter().find(|row| row[0].contains("`weirgate_sockets_closed_total`")).unwrap();
    let ends: Names = quoted(closed[1]).filter(|name| *name != "why").map(str::to_owned).collect();
    assert_eq!(ends, labels(&page, "weirgate_sockets_closed_total", "why"));
}

/// The names of the page's samples, a histogram's without what stands behind it.
fn names_of(page: &str) -> Names {
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut names: Names = families
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        .collect();
    assert!(names.len() > 50, "{page}");
    // The kernel program's counters are only there where it may be loaded, so they are read from the source too.
    let steering = read("src/net/steering/mod.rs");
    let counters = steering.split('"').filter(|text| text.starts_with("steering_"));
    names.extend(counters.map(|name| format!("weirgate_{name}_total")));
    names.insert("weirgate_steering_paths".to_owned());
    names
}

/// Every word of a text that is a metric's name.
fn metrics_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.len() > "weirgate_".len() && word.starts_with("weirgate_"))
}

#[test]
fn metrics_that_the_documents_speak_of_exist() {
    let page = metrics();
    let known = names_of(&page);
    let is_known = |name: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        known.contains(name) || histogram.is_some_and(|name| page.contains(&format!("# TYPE {name} histogram")))
    };
    let (mut unknown, mut seen) = (Vec::new(), 0);
    let alerts = (PathBuf::from("docs/alerts.yml"), read("docs/alerts.yml"));
    for (document, text) in documents().into_iter().chain([alerts]) {
        for name in metrics_in(&text) {
            seen += 1;
            if !is_known(name) {
                unknown.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(unknown.is_empty() && seen > 100, "{seen} names, of which these are not on the page: {unknown:#?}");
    let tuning = read("docs/TUNING.md");
    for why in quoted(&tuning).filter(|name| name.ends_with("_full") || name.ends_with("_behind")) {
        let counted = known.contains(why) || labels(&page, "weirgate_dropped_packets_total", "why").contains(why);
        assert!(counted, "docs/TUNING.md names {why}");
    }
}

#[test]
fn the_alert_rules_are_rules() {
    let alerts = read("docs/alerts.yml");
    let page = metrics();
    let reasons = labels(&page, "weirgate_dropped_packets_total", "why");
    for why in alerts.split("why=~\"").skip(1).flat_map(|rest| rest.split('"').next().unwrap().split('|')) {
        assert!(reasons.contains(why), "docs/alerts.yml names {why}");
    }
    for rule in alerts.split("- alert: ").skip(1) {
        for part in ["expr:", "severity:", "summary:", "description:"] {
            assert!(rule.contains(part), "{part} is missing in {rule}");
        }
    }
    let checked = Command::new("promtool").args(["check", "rules", "docs/alerts.yml"]).current_dir(root()).output();
    match checked {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        // Straight to the descriptor: cargo keeps what a test prints that passes.
        Err(error) => {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: promtool does not check docs/alerts.yml, because it cannot be run: {error}"
            );
        }
    }
}
