//! Starts the scripts of this folder; shared by the tests that compare our ORTC with mediasoup and mediasoup-client.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// None when the environment says to go without, which a line on stderr tells.
pub(crate) fn start(script: &str) -> Option<Child> {
    if std::env::var_os("WEIRGATE_SKIP_ORACLE").is_some() {
        // Not by a macro: the test harness would swallow it.
        let _ = writeln!(std::io::stderr(), "SKIPPED: WEIRGATE_SKIP_ORACLE is set, {script} is not asked");
        return None;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ortc_oracle");
    let cure = "run tests/run, which installs it, or set WEIRGATE_SKIP_ORACLE=1 to go without";
    for package in ["mediasoup", "mediasoup-client"] {
        let installed = folder.join("node_modules").join(package).join("package.json");
        assert!(installed.exists(), "the npm package {package} is not in tests/ortc_oracle/node_modules: {cure}");
    }
    let child =
        Command::new("node").arg(script).current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    Some(child.unwrap_or_else(|error| panic!("node does not start ({error}): {cure}")))
}
