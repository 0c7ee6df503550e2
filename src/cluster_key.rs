//! `weirgate cluster-key`: a key for the nodes of a cluster, on stdout and nothing else there.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use weirgate::signal::cluster::ClusterKeys;

const EXAMPLES: &str = "\
Examples:
  (umask 077; weirgate cluster-key > cluster.key)
      the first key; every node of the cluster gets the same file with --cluster-key
  weirgate cluster-key --id 2 >> cluster.key
      a second one, to follow the first: docs/CLUSTER.md says in which steps

Whoever has the key belongs to the cluster.

Exit code: 0, 2 when an option is wrong.";

/// Makes a key that the nodes of a cluster seal their messages with.
#[derive(Parser, Debug)]
#[command(name = "weirgate cluster-key", bin_name = "weirgate cluster-key", after_help = EXAMPLES, max_term_width = 110)]
struct Options {
    /// Which of the keys of one file it is
    #[arg(long, value_name = "0-255", default_value_t = 1)]
    id: u8,
}

pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match Options::try_parse_from(args) {
        Ok(Options { id }) => {
            // A reader that closes the pipe early has read enough.
            let _ = writeln!(std::io::stdout(), "{}", ClusterKeys::line(id, rand::random()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Help goes to stdout, and a fault to stderr.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        }
    }
}
