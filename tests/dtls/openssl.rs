//! A real OpenSSL client, over loopback, with a session that it would like to resume (RFC 5246 section 7.4.1.2) and without:
//! it gets a full handshake either way, with our keys, and application data both ways. Says that it was skipped where there
//! is no `openssl`.
#![expect(clippy::disallowed_methods, reason = "a real client on real sockets is waited for by the clock")]

use super::engine;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weirgate::base::time::Instant as Ours;
use weirgate::secure::dtls::{ClosedBy, Keying, SecureEngine, SecureOutput, SecureSession, SessionTag, Side};
use weirgate::secure::srtp::SrtpProfile;

const WAIT: Duration = Duration::from_secs(60);
const PROFILES: &str = "SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_128_GCM";
/// Of both profiles, the longer.
const EXPORTED: usize = 60;

struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        let mut child = Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = Arc::<Mutex<String>>::default();
        let (mut stdout, heard) = (child.stdout.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(len @ 1..) = stdout.read(&mut buffer) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
        });
        Running { child, said }
    }

    fn says(&self, what: &str) -> bool {
        self.said.lock().unwrap().contains(what)
    }

    fn type_in(&mut self, text: &str) {
        // One that has ended reads nothing.
        let _ = self.child.stdin.as_mut().unwrap().write_all(text.as_bytes());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a certificate and its key, which goes with this.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("weirgate-openssl-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
        Folder(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn client(folder: &Folder, to: SocketAddr, more: &[&str]) -> Running {
    let (cert, key) = (folder.path("cert.pem"), folder.path("key.pem"));
    let (to, exported) = (to.to_string(), EXPORTED.to_string());
    let fixed = ["s_client", "-dtls1_2", "-timeout", "-connect", &to, "-cert", &cert, "-key", &key, "-use_srtp"];
    let export = [PROFILES, "-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", &exported];
    Running::start(&[&fixed[..], &export, more].concat())
}

/// A session with an id of 32 bytes, from OpenSSL's own server: ours gives none away.
fn session_to_resume(folder: &Folder) -> String {
    let session = folder.path("session.pem");
    // The port is free a moment later, too: nobody else asks for this one.
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (accept, cert, key) = (free.to_string(), folder.path("cert.pem"), folder.path("key.pem"));
    let _server =
        Running::start(&["s_server", "-dtls1_2", "-no_ticket", "-accept", &accept, "-cert", &cert, "-key", &key]);
    let is_written = || std::fs::read_to_string(&session).is_ok_and(|text| text.contains("END SSL SESSION"));
    let begun = Instant::now();
    while !is_written() {
        assert!(begun.elapsed() < WAIT, "OpenSSL's own server gave no session");
        let mut client = client(folder, free, &["-sess_out", &session]);
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(20));
            if client.says("Master-Key") {
                client.type_in("Q\n");
            }
            if is_written() {
                break;
            }
        }
    }
    session
}

struct Server {
    socket: UdpSocket,
    engine: weirgate::secure::dtls::DtlsEngine,
    session: Box<dyn SecureSession>,
    client: Option<SocketAddr>,
    begun: Instant,
    /// Lengths of session ids in hellos.
    session_ids: Vec<u8>,
    keying: Option<Keying>,
    application: Vec<u8>,
    closed: Option<ClosedBy>,
}

impl Server {
    fn new() -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let mut engine = engine();
        let session = engine.open(Ours::ZERO, Side::Server, SessionTag(1));
        let (session_ids, application) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        Server { socket, engine, session, client: None, begun, session_ids, keying: None, application, closed: None }
    }

    fn run(&mut self, client: &Running, until: impl Fn(&Server) -> bool) {
        while !until(self) {
            assert!(self.begun.elapsed() < WAIT, "{:?}\n{}", self.closed, client.said.lock().unwrap());
            let now = Ours::from_nanos(self.begun.elapsed().as_nanos() as u64);
            let mut buffer = [0; 2_048];
            if let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                self.client = Some(from);
                // Behind the headers of record and message, version and random.
                if buffer[0] == 22 && buffer[3..5] == [0, 0] && buffer[13] == 1 {
                    self.session_ids.push(buffer[13 + 12 + 34]);
                }
                let _ = self.session.handle_datagram(now, &buffer[..len]);
            }
            if self.engine.next_deadline().is_some_and(|due| due <= now) {
                self.engine.pump(now);
            }
            while let Some(output) = self.session.poll() {
                match output {
                    SecureOutput::Transmit(datagram) => {
                        self.socket.send_to(&datagram, self.client.unwrap()).unwrap();
                    }
                    SecureOutput::Established(keying) => {
                        self.session.accept_application();
                        self.keying = Some(*keying);
                    }
                    SecureOutput::Application(data) => self.application.extend(data),
                    SecureOutput::Closed(why) => self.closed = Some(why),
                }
            }
        }
    }
}

#[test]
fn an_openssl_client_gets_a_full_handshake_whether_or_not_it_would_resume() {
    if Command::new("openssl").arg("version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "skipped: there is no openssl here");
        return;
    }
    let folder = Folder::new("resume");
    let session = session_to_resume(&folder);
    for (more, id_len) in [(&[][..], 0), (&["-sess_in", &session][..], 32)] {
        let mut server = Server::new();
        let mut client = client(&folder, server.socket.local_addr().unwrap(), more);
        server.run(&client, |server| server.keying.is_some() && client.says("Keying material: "));
        assert!(server.session_ids.len() >= 2 && server.session_ids.iter().all(|&len| len == id_len));
        assert!(client.says("New, TLSv1.2"), "nothing is resumed");
        let keying = server.keying.clone().unwrap();
        assert_eq!(keying.profile, SrtpProfile::AeadAes128Gcm, "the best that it offered");
        let (remote, local) = (keying.remote.clone(), keying.local.clone());
        let ours = [remote.key(), local.key(), remote.salt(), local.salt()].concat();
        let ours: String = ours.iter().map(|byte| format!("{byte:02X}")).collect();
        assert!(client.says(&format!("Keying material: {ours}")), "the same keys at both ends");

        client.type_in("from OpenSSL\n");
        server.run(&client, |server| server.application == b"from OpenSSL\n");
        assert!(server.session.send(b"from us\n"));
        server.run(&client, |_| client.says("from us"));
        client.type_in("Q\n");
        server.run(&client, |server| server.closed == Some(ClosedBy::Peer));
    }
}
