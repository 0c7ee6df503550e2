//! Certificates by ACME: the real program in front of Debian's pebble, a test authority, and in front of authorities that
//! hang and lie. Says that it was skipped where there is no `pebble`.
#![cfg(feature = "edge")]
#![expect(clippy::disallowed_methods, reason = "real programs are waited for by the clock")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

const WAIT: Duration = Duration::from_secs(60);
const NAME: &str = "meet.example";
/// Longer than the first wait after a failure.
const RETRY_WAIT: Duration = Duration::from_secs(150);

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn until(wait: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < wait, "{what} does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A program that ends with the test; what it says is kept.
struct Process {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Process {
    fn start(command: &mut Command) -> Process {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::<Mutex<String>>::default();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                lines.for_each(|line| *said.lock().unwrap() += &(line + "\n"));
            });
        }
        Process { child, said }
    }

    fn count(&self, part: &str) -> usize {
        self.said.lock().unwrap().matches(part).count()
    }

    fn says(&self, wait: Duration, part: &str, times: usize) {
        let started = Instant::now();
        while self.count(part) < times {
            assert!(started.elapsed() < wait, "no {part:?} in\n{}", self.said.lock().unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files and ports of one test.
struct Place {
    folder: PathBuf,
    /// Of the authority's own TLS.
    root: CertificateDer<'static>,
    directory_port: u16,
    management_port: u16,
    dns_port: u16,
    public_port: u16,
    admin_port: u16,
}

impl Place {
    fn new(test: &str) -> Place {
        let folder = std::env::temp_dir().join(format!("weirgate-acme-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        fs::write(folder.join("ca.pem"), made.cert.pem()).unwrap();
        fs::write(folder.join("ca-key.pem"), made.signing_key.serialize_pem()).unwrap();
        let root = made.cert.der().clone();
        let [directory_port, management_port, dns_port, public_port, admin_port] = [0; 5].map(|_| free_port());
        Place { folder, root, directory_port, management_port, dns_port, public_port, admin_port }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Every name leads to this machine.
    fn names(&self) -> Process {
        let dns = format!("127.0.0.1:{}", self.dns_port);
        let management = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("pebble-challtestsrv");
        command.args(["-dns01", &dns, "-management", &management, "-defaultIPv6", ""]);
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        let process = Process::start(&mut command);
        until(WAIT, "the DNS server", || TcpStream::connect(&dns).is_ok());
        process
    }

    /// An authority whose certificates hold so long.
    fn authority(&self, seconds: u64) -> Process {
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.directory_port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management_port),
            "certificate": self.path("ca.pem"), "privateKey": self.path("ca-key.pem"),
            "httpPort": 1, "tlsPort": self.public_port, "certificateValidityPeriod": seconds,
        } });
        fs::write(self.path("pebble.json"), config.to_string()).unwrap();
        let mut command = Command::new("pebble");
        command.args(["-config", &self.path("pebble.json"), "-dnsserver", &format!("127.0.0.1:{}", self.dns_port)]);
        let process = Process::start(command.env("PEBBLE_VA_NOSLEEP", "1"));
        until(WAIT, "the authority", || TcpStream::connect(("127.0.0.1", self.management_port)).is_ok());
        process
    }

    fn kept(&self, kind: &str) -> PathBuf {
        let found = fs::read_dir(self.path("acme")).unwrap().map(|entry| entry.unwrap().path());
        let mut found = found.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(kind));
        found.next().unwrap_or_else(|| panic!("no {kind} is kept"))
    }

    fn weirgate(&self) -> Process {
        let media = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
        command.args(["--cores", "1", "--rtc-listen", &media]);
        command.args(["--listen", &format!("127.0.0.1:{}", self.public_port)]);
        command.args(["--admin-listen", &format!("127.0.0.1:{}", self.admin_port)]);
        command.args(["--acme-domain", NAME, "--acme-dir", &self.path("acme"), "--acme-ca", &self.path("ca.pem")]);
        command.args(["--acme-directory", &format!("https://localhost:{}/dir", self.directory_port)]);
        let process = Process::start(&mut command);
        process.says(WAIT, "  stop ", 1);
        process
    }

    fn sample(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin_port)).unwrap();
        let page = get(&mut stream, "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is missing in {page}")).parse().unwrap()
    }

    /// The root that the authority's certificates lead to; it is another one at each of its starts.
    fn issuer(&self) -> CertificateDer<'static> {
        let mut stream = tls(self.management_port, &self.root, "localhost", &[]).expect("its management listens");
        let answer = get(&mut stream, "/roots/0");
        CertificateDer::from_pem_slice(answer.split("\r\n\r\n").nth(1).unwrap().as_bytes()).unwrap()
    }

    /// The certificate that a client gets who trusts this root alone.
    fn presented(&self, root: &CertificateDer<'static>) -> Option<CertificateDer<'static>> {
        let mut stream = tls(self.public_port, root, NAME, &[b"http/1.1"])?;
        assert!(get(&mut stream, "/healthz").starts_with("HTTP/1.1 200"));
        Some(stream.conn.peer_certificates().unwrap()[0].clone().into_owned())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn tls(port: u16, root: &CertificateDer<'static>, name: &str, protocols: &[&[u8]]) -> Option<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let session = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    let mut stream = StreamOwned::new(session, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).ok()?;
    }
    Some(stream)
}

fn get(stream: &mut (impl Read + Write), path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A server that closes without a close_notify has said all.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn no_pebble() -> bool {
    let missing = Command::new("pebble-challtestsrv").arg("-h").output().is_err();
    if missing {
        eprintln!("skipped: pebble is not installed");
    }
    missing
}

#[test]
fn a_certificate_is_obtained_kept_and_renewed() {
    if no_pebble() {
        return;
    }
    let place = Place::new("life");
    let (_names, authority) = (place.names(), place.authority(40));
    let started = Instant::now();
    let weirgate = place.weirgate();
    let issuer = place.issuer();
    let mut first = None;
    until(WAIT, "the first certificate", || {
        first = place.presented(&issuer);
        first.is_some()
    });
    eprintln!("the first certificate took {:?}", started.elapsed());
    assert!(place.sample("weirgate_acme_orders_total") >= 1 && place.sample("weirgate_acme_validations_total") >= 1);
    let ends = place.sample("weirgate_tls_certificate_end_seconds");
    assert!(tls(place.public_port, &issuer, NAME, &[b"acme-tls/1"]).is_none(), "nothing is being proved");
    assert_eq!(fs::metadata(place.path("acme")).unwrap().permissions().mode() & 0o777, 0o700);
    for kind in ["account", "certificate"] {
        assert_eq!(fs::metadata(place.kept(kind)).unwrap().permissions().mode() & 0o777, 0o600, "{kind}");
    }
    until(WAIT, "the renewal", || place.presented(&issuer).is_some_and(|now| Some(now) != first));
    assert!(place.sample("weirgate_tls_certificate_end_seconds") > ends);
    let renewed = place.presented(&issuer).unwrap();
    drop(weirgate);
    let orders = authority.count("Added order");
    let weirgate = place.weirgate();
    let kept = place.presented(&issuer).expect("it is there from the first connection on");
    assert_eq!(kept, renewed);
    weirgate.says(WAIT, "the certificate that is kept is in use", 1);
    assert_eq!(authority.count("Added order"), orders, "a young one is not ordered again");
}

#[test]
fn an_authority_that_is_down_is_asked_again_and_broken_files_are_made_anew() {
    if no_pebble() {
        return;
    }
    let place = Place::new("down");
    let _names = place.names();
    let weirgate = place.weirgate();
    weirgate.says(WAIT, "no certificate was obtained", 1);
    assert!(weirgate.count("cannot be reached") == 1 && weirgate.count("cure=") >= 1);
    assert_eq!(place.sample("weirgate_acme_orders_failed_total{why=\"unreachable\"}"), 1);
    let own = place.presented(&place.root);
    assert!(own.is_none(), "until then it is one that nobody has signed");
    let authority = place.authority(3_600);
    let issuer = place.issuer();
    until(RETRY_WAIT, "the certificate", || place.presented(&issuer).is_some());
    drop(weirgate);
    for (kind, text) in [("certificate", "-----BEGIN CERTIFICATE-----\n"), ("account", "{\"id\": 7")] {
        fs::write(place.kept(kind), text).unwrap();
    }
    let weirgate = place.weirgate();
    until(WAIT, "another certificate", || place.presented(&issuer).is_some());
    assert!(weirgate.count("another certificate is ordered") == 1 && weirgate.count("a new account is opened") == 1);
    // An authority that has lost its accounts.
    drop((weirgate, authority));
    fs::remove_file(place.kept("certificate")).unwrap();
    let _authority = place.authority(3_600);
    let issuer = place.issuer();
    let weirgate = place.weirgate();
    until(WAIT, "a certificate of the new authority", || place.presented(&issuer).is_some());
    assert_eq!(weirgate.count("is of no use: a new one is opened"), 1);
}

/// One that answers each request with this, over TLS; None: it never answers.
fn liar(place: &Place, answer: Option<&'static [u8]>) {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::from_pem_file(place.path("ca-key.pem")).unwrap();
    let config = Arc::new(builder.with_single_cert(vec![place.root.clone()], key).unwrap());
    let address: SocketAddr = ([127, 0, 0, 1], place.directory_port).into();
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        while let Ok((socket, _)) = listener.accept() {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head);
            match answer {
                Some(bytes) => drop(stream.write_all(bytes)),
                None => silent.push(stream),
            }
        }
    });
}

#[test]
fn an_authority_that_hangs_or_lies_harms_nothing_but_its_order() {
    const ENDLESS: &[u8] = &{
        let head = *b"HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n";
        let mut bytes = [b' '; 400_043];
        let mut n = 0;
        while n < head.len() {
            bytes[n] = head[n];
            n += 1;
        }
        bytes
    };
    let redirect: &[u8] = b"HTTP/1.1 302 Found\r\nlocation: https://localhost/\r\ncontent-length: 0\r\n\r\n";
    // The library takes the address of new nonces as it comes.
    let panics: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 70\r\n\r\n\
        {\"newNonce\":\"http://[\",\"newAccount\":\"https://a\",\"newOrder\":\"https://\"}";
    let plain: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 74\r\n\r\n\
        {\"newNonce\":\"http://a/b\",\"newAccount\":\"https://a\",\"newOrder\":\"https://ab\"}";
    let busy: &[u8] = b"HTTP/1.1 503 Busy\r\nretry-after: 18446744073709551615\r\ncontent-length: 2\r\n\r\n{}";
    for (name, answer, why, says) in [
        ("redirect", Some(redirect), "senseless", "which is not followed"),
        ("endless", Some(ENDLESS), "senseless", "is longer than"),
        ("panics", Some(panics), "senseless", "made the ACME library panic"),
        ("plain", Some(plain), "senseless", "no https URL"),
        ("busy", Some(busy), "limited", "again_in_s=86400"),
        ("noise", Some(b"\0\0\0\0"), "unreachable", "is no HTTP"),
        ("silent", None, "unreachable", "does not answer within"),
    ] {
        let place = Place::new(name);
        liar(&place, answer);
        let weirgate = place.weirgate();
        weirgate.says(WAIT, "no certificate was obtained", 1);
        assert_eq!(weirgate.count(says), 1, "{name}: {}", weirgate.said.lock().unwrap());
        assert_eq!(place.sample(&format!("weirgate_acme_orders_failed_total{{why=\"{why}\"}}")), 1, "{name}");
        let plain = get(&mut TcpStream::connect(("127.0.0.1", place.public_port)).unwrap(), "/");
        assert!(plain.starts_with("HTTP/1.1 308"), "it serves: {plain}");
    }
}
