//! The first engine: the crate `dtls` of webrtc-rs, DTLS 1.2 in both roles. It is async: it runs on a runtime of its own
//! (timers, no sockets), which is driven until idle once per datagram and once per tick, and reads the real clock. It takes
//! no ClientHello that has a session id: it does not skip it. It is there for the handshake alone; afterwards two AES keys
//! are left, derived once more from the secrets that it tells. Not to be used inside another tokio runtime.

use super::gcm_records::GcmRecords;
use super::library::{Handshake, HandshakeProgress, Library, Secured};
use super::memory_socket::{MemorySocket, locked};
use super::session::{Keying, Side};
use crate::base::time::{Duration, Instant};
use crate::secure::certificate::Identity;
use crate::secure::srtp::SrtpProfile;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use webrtc_dtls::cipher_suite::CipherSuiteId;
use webrtc_dtls::config::{ClientAuthType, Config, ExtendedMasterSecretType};
use webrtc_dtls::conn::DTLSConn;
use webrtc_dtls::crypto::{Certificate, CryptoPrivateKey, CryptoPrivateKeyKind};
use webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use webrtc_util::KeyingMaterialExporter;

/// Task polls before a drive of the runtime may end early: a whole handshake step takes about 40.
const POLLS_PER_DRIVE: u32 = 1_024;
/// Sent as server_name by the client: the library would send an address, which RFC 6066 section 3 forbids.
const SERVER_NAME: &str = "weirgate";

pub(super) struct WebrtcEngine {
    runtime: Rc<Runtime>,
    certificate: Certificate,
    flight_interval: Duration,
}

impl WebrtcEngine {
    pub(super) fn new(identity: &Identity, flight_interval: Duration) -> std::io::Result<WebrtcEngine> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().event_interval(POLLS_PER_DRIVE).build()?;
        let kind = CryptoPrivateKeyKind::Ecdsa256(identity.signer());
        let private_key = CryptoPrivateKey { kind, serialized_der: identity.private_key().to_vec() };
        let certificate = Certificate { certificate: vec![identity.der().to_vec().into()], private_key };
        Ok(WebrtcEngine { runtime: Rc::new(runtime), certificate, flight_interval })
    }

    /// Runs every task that can run, and due timers; does not wait.
    pub(super) fn drive(&self) {
        drive(&self.runtime);
    }

    /// Tasks of the library that are alive: three per handshake, none after it.
    pub(super) fn tasks(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }

    fn config(&self, side: Side, profiles: &[SrtpProfile]) -> Config {
        // RFC 8827 section 6.5 makes this suite mandatory. As server no RSA suite: our key is ECDSA, and the library would
        // take one if the client prefers it. Nothing but GCM: the library's CBC panics on forged records.
        let mut cipher_suites = vec![CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256];
        if side == Side::Client {
            cipher_suites.push(CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256);
        }
        Config {
            certificates: vec![self.certificate.clone()],
            cipher_suites,
            srtp_protection_profiles: profiles.iter().map(|&profile| library_profile(profile)).collect(),
            client_auth: ClientAuthType::RequireAnyClientCert,
            extended_master_secret: ExtendedMasterSecretType::Require,
            flight_interval: self.flight_interval,
            // No authority vouches for these certificates: `transport` compares fingerprints.
            insecure_skip_verify: true,
            server_name: SERVER_NAME.to_owned(),
            ..Config::default()
        }
    }
}

impl Library for WebrtcEngine {
    fn start(&self, _: Instant, side: Side, offer: &[SrtpProfile]) -> Box<dyn Handshake> {
        let (socket, found) = (Arc::<MemorySocket>::default(), Arc::<Mutex<Found>>::default());
        let task = associate(socket.clone(), self.config(side, offer), side, found.clone());
        let task = self.runtime.spawn(task).abort_handle();
        Box::new(WebrtcHandshake { runtime: Rc::clone(&self.runtime), socket, found, task })
    }
}

struct WebrtcHandshake {
    runtime: Rc<Runtime>,
    socket: Arc<MemorySocket>,
    found: Arc<Mutex<Found>>,
    task: AbortHandle,
}

impl Handshake for WebrtcHandshake {
    fn push(&mut self, datagram: Vec<u8>) -> bool {
        self.socket.push(datagram)
    }

    fn drive(&mut self, _: Instant) {
        drive(&self.runtime);
    }

    /// All handshakes share one runtime, which [`WebrtcEngine::drive`] drives once for all.
    fn tick(&mut self, _: Instant) {}

    fn take(&mut self) -> HandshakeProgress {
        HandshakeProgress { sent: self.socket.take(), end: locked(&self.found).take() }
    }
}

impl Drop for WebrtcHandshake {
    /// Cancelled tasks end when the runtime runs.
    fn drop(&mut self) {
        self.task.abort();
        drive(&self.runtime);
    }
}

fn drive(runtime: &Runtime) {
    runtime.block_on(tokio::task::yield_now());
}

/// What the task has come to.
type Found = Option<Result<Secured, String>>;

/// Tells of an end that nobody foresaw: the runtime catches a panic in the library and drops the task.
struct Ending(Arc<Mutex<Found>>);

impl Drop for Ending {
    fn drop(&mut self) {
        locked(&self.0).get_or_insert_with(|| Err("the DTLS library gave up".to_owned()));
    }
}

/// One handshake. The connection ends with it: nothing that the library does later is wanted.
async fn associate(socket: Arc<MemorySocket>, config: Config, side: Side, found: Arc<Mutex<Found>>) {
    let ending = Ending(found);
    let outcome = establish(socket, config, side).await;
    *locked(&ending.0) = Some(outcome);
}

async fn establish(socket: Arc<MemorySocket>, config: Config, side: Side) -> Result<Secured, String> {
    let is_client = side == Side::Client;
    let connection = DTLSConn::new(socket, config, is_client, None).await.map_err(|error| error.to_string())?;
    let profile = match connection.selected_srtpprotection_profile() {
        SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => SrtpProfile::AeadAes128Gcm,
        SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => SrtpProfile::AeadAes256Gcm,
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => SrtpProfile::Aes128CmSha1_80,
        _ => return Err("no SRTP profile was agreed on".to_owned()),
    };
    let state = connection.connection_state().await;
    // RFC 5764 section 4.2.
    let material = state
        .export_keying_material("EXTRACTOR-dtls_srtp", &[], 2 * (profile.key_len() + profile.salt_len()))
        .await
        .map_err(|error| error.to_string())?;
    let peer_certificate = state.peer_certificates.first().cloned().ok_or("the peer sent no certificate")?;
    // The gate knows the suite, the library does not tell it.
    let keying = Keying::from_exported(side, profile, "", &material, peer_certificate);
    let keying = keying.ok_or("the exported keys have the wrong length")?;
    let secrets = state.key_log_data().map_err(|error| error.to_string())?;
    let (local, remote) = (&secrets.local_random, &secrets.remote_random);
    let (client, server) = if is_client { (local, remote) } else { (remote, local) };
    // The one cipher that it is offered, whichever key signs.
    let records = GcmRecords::new(side, &secrets.master_secret, client, server);
    Ok(Secured { keying, records: Box::new(records) })
}

fn library_profile(profile: SrtpProfile) -> SrtpProtectionProfile {
    match profile {
        SrtpProfile::AeadAes128Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
        SrtpProfile::AeadAes256Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
        SrtpProfile::Aes128CmSha1_80 => SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_it_agree_and_leave_no_task() {
        let engine = WebrtcEngine::new(&Identity::generate().unwrap(), Duration::from_millis(400)).unwrap();
        let now = Instant::ZERO;
        let sides = [Side::Server, Side::Client];
        let mut ends = sides.map(|side| engine.start(now, side, &[SrtpProfile::AeadAes128Gcm]));
        let mut secured: [Option<Secured>; 2] = [None, None];
        for _ in 0..20 {
            for from in 0..2 {
                ends[from].drive(now);
                let progress = ends[from].take();
                progress.sent.into_iter().for_each(|datagram| assert!(ends[1 - from].push(datagram)));
                secured[from] = progress.end.map(Result::unwrap).or(secured[from].take());
            }
        }
        let [Some(server), Some(client)] = secured else { panic!("no agreement") };
        assert_eq!((server.keying.local, server.keying.remote), (client.keying.remote, client.keying.local));
        drop(ends);
        assert_eq!(engine.tasks(), 0);
    }
}
