//! Clients that begin TLS and do not go on, or go on for ever.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use weirgate::base::limits::{HTTP_CONNECTIONS_MAX, TLS_HANDSHAKE_BYTES_MAX};
use weirgate::server::{CertificateFiles, Certificates, Timing};
use weirgate::signal::Origins;

use crate::{Edge, WAIT, edge_with};

fn tls_edge(name: &str, timing: Timing) -> Edge {
    let folder = std::env::temp_dir().join(format!("weirgate-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = CertificateFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let certificates = Certificates::load(files).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    edge_with(timing, Origins::default(), Some(certificates))
}

/// Whether the server has closed it, with or without an alert.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

impl Edge {
    fn sample(&self, name: &str) -> u64 {
        let page = self.raw_at(self.admin, "GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").body;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is missing in {page}")).parse().unwrap()
    }

    /// Waits until a sample has this value.
    fn comes_to(&self, name: &str, value: u64) {
        for _ in 0..200 {
            if self.sample(name) == value {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{name} is {}, not {value}", self.sample(name));
    }

    fn failed_handshakes(&self, why: &str) -> u64 {
        self.sample(&format!("weirgate_tls_handshakes_failed_total{{why=\"{why}\"}}"))
    }

    fn has_failed(&self, why: &str, times: u64) {
        self.comes_to(&format!("weirgate_tls_handshakes_failed_total{{why=\"{why}\"}}"), times);
    }

    fn holds(&self, connections: usize) {
        self.comes_to("weirgate_http_connections", connections as u64);
    }
}

#[test]
fn a_client_that_begins_tls_and_is_silent_is_let_go() {
    let timing = Timing { head_wait: Duration::from_millis(300), ..Timing::default() };
    let edge = tls_edge("silent", timing);
    // Nothing at all, the beginning of a record, and a whole record that is the beginning of a ClientHello.
    let begun: [&[u8]; 3] = [&[], &[22, 3, 1], &[22, 3, 1, 0, 4, 1, 0, 1, 0]];
    let mut clients = begun.map(|bytes| {
        let mut stream = edge.connect();
        stream.write_all(bytes).unwrap();
        stream
    });
    assert!(clients.iter_mut().all(is_closed));
    edge.has_failed("silent", 3);
    drop(edge.connect());
    edge.has_failed("closed", 1);
    let mut junk = edge.connect();
    junk.write_all(&[22, 9, 9, 0, 1, 1]).unwrap();
    assert!(is_closed(&mut junk));
    edge.has_failed("refused", 1);
    edge.server.stop().unwrap();
}

#[test]
fn a_handshake_without_end_is_cut_by_its_bytes() {
    let edge = tls_edge("endless", Timing::default());
    let mut stream = edge.connect();
    // A ClientHello that says it has 65,000 bytes, in records of 1,000.
    let mut hello = vec![1, 0, 0xfd, 0xe8];
    hello.resize(65_004, 0);
    let mut sent = 0;
    for piece in hello.chunks(1_000) {
        let record = [&[22, 3, 1, (piece.len() >> 8) as u8, piece.len() as u8], piece].concat();
        if stream.write_all(&record).is_err() {
            break;
        }
        sent += record.len();
        if sent > TLS_HANDSHAKE_BYTES_MAX && edge.failed_handshakes("refused") == 1 {
            break;
        }
    }
    assert!(is_closed(&mut stream));
    assert!(sent < 65_000, "it is cut in the middle");
    edge.has_failed("refused", 1);
    edge.server.stop().unwrap();
}

#[test]
fn a_handshake_counts_as_a_connection_that_waits_for_its_request() {
    // Both ends are in this process.
    let descriptors = 2 * HTTP_CONNECTIONS_MAX as u64 + 512;
    let (soft, hard) = rlimit::Resource::NOFILE.get().unwrap();
    if hard < descriptors {
        return eprintln!("skipped: this user may not open {descriptors} files");
    }
    rlimit::Resource::NOFILE.set(soft.max(descriptors), hard).unwrap();
    let timing = Timing { head_wait: WAIT * 10, ..Timing::default() };
    let edge = tls_edge("waiting", timing);
    let begin = || {
        let mut stream = edge.connect();
        stream.write_all(&[22, 3, 1]).unwrap();
        stream
    };
    let mut held = Vec::new();
    while held.len() < HTTP_CONNECTIONS_MAX {
        // A full queue of the listener would make the kernel wait a second.
        held.extend((0..64).map(|_| begin()));
        edge.holds(held.len());
    }
    held.push(begin());
    assert!(is_closed(&mut held[0]), "the oldest gives way to a new one");
    edge.holds(HTTP_CONNECTIONS_MAX);
    edge.has_failed("silent", 0);
    // No end waits for a handshake.
    edge.server.stop().unwrap();
    assert!(is_closed(held.last_mut().unwrap()));
}
