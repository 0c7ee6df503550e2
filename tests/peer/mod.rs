//! The dtls crate itself as the other end, without our gate: the source of a session's input in the tests.

use async_trait::async_trait;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use webrtc_dtls::config::{ClientAuthType, Config, ExtendedMasterSecretType};
use webrtc_dtls::conn::DTLSConn;
use webrtc_dtls::crypto::Certificate;
use webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use webrtc_util::{Conn, KeyingMaterialExporter};

pub(crate) const GCM_128: SrtpProtectionProfile = SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm;
pub(crate) const GCM_256: SrtpProtectionProfile = SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm;
pub(crate) const CM_80: SrtpProtectionProfile = SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80;
pub(crate) const CM_32: SrtpProtectionProfile = SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_32;

#[derive(Default)]
struct Pipe {
    inbound: Mutex<VecDeque<Vec<u8>>>,
    outbound: Mutex<Vec<Vec<u8>>>,
    arrived: Notify,
}

#[async_trait]
impl Conn for Pipe {
    async fn connect(&self, _: SocketAddr) -> webrtc_util::Result<()> {
        Ok(())
    }
    async fn recv(&self, buffer: &mut [u8]) -> webrtc_util::Result<usize> {
        loop {
            if let Some(datagram) = self.inbound.lock().unwrap().pop_front() {
                buffer[..datagram.len()].copy_from_slice(&datagram);
                return Ok(datagram.len());
            }
            self.arrived.notified().await;
        }
    }
    async fn recv_from(&self, buffer: &mut [u8]) -> webrtc_util::Result<(usize, SocketAddr)> {
        Ok((self.recv(buffer).await?, self.local_addr()?))
    }
    async fn send(&self, datagram: &[u8]) -> webrtc_util::Result<usize> {
        self.outbound.lock().unwrap().push(datagram.to_vec());
        Ok(datagram.len())
    }
    async fn send_to(&self, datagram: &[u8], _: SocketAddr) -> webrtc_util::Result<usize> {
        self.send(datagram).await
    }
    fn local_addr(&self) -> webrtc_util::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], 1)))
    }
    fn remote_addr(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }
    async fn close(&self) -> webrtc_util::Result<()> {
        Ok(())
    }
    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

/// The peer's knowledge after its handshake.
pub(crate) struct Agreed {
    pub(crate) profile: SrtpProtectionProfile,
    pub(crate) material: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
}

#[derive(Default)]
struct Progress {
    agreed: Option<Result<Agreed, String>>,
    connection: Option<Arc<DTLSConn>>,
    /// Application data.
    read: Vec<Vec<u8>>,
    closed: bool,
}

pub(crate) struct Peer {
    runtime: Runtime,
    pipe: Arc<Pipe>,
    progress: Arc<Mutex<Progress>>,
    pub(crate) certificate: Vec<u8>,
}

pub(crate) fn config(profiles: &[SrtpProtectionProfile]) -> Config {
    Config {
        certificates: vec![Certificate::generate_self_signed(vec!["peer".to_owned()]).unwrap()],
        srtp_protection_profiles: profiles.to_vec(),
        client_auth: ClientAuthType::RequireAnyClientCert,
        extended_master_secret: ExtendedMasterSecretType::Require,
        flight_interval: Duration::from_millis(30),
        insecure_skip_verify: true,
        ..Config::default()
    }
}

impl Peer {
    pub(crate) fn start(is_client: bool, config: Config) -> Peer {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().event_interval(1_024).build().unwrap();
        let certificate = config.certificates.first().map(|own| own.certificate[0].to_vec()).unwrap_or_default();
        let (pipe, progress) = (Arc::new(Pipe::default()), Arc::new(Mutex::new(Progress::default())));
        let (line, shared) = (pipe.clone(), progress.clone());
        runtime.spawn(async move {
            let agreed = match DTLSConn::new(line, config, is_client, None).await {
                Err(error) => Err(error.to_string()),
                Ok(connection) => {
                    let profile = connection.selected_srtpprotection_profile();
                    let len = match profile {
                        GCM_128 => 56,
                        GCM_256 => 88,
                        _ => 60,
                    };
                    let state = connection.connection_state().await;
                    let material = state.export_keying_material("EXTRACTOR-dtls_srtp", &[], len).await.unwrap();
                    let certificate = state.peer_certificates[0].clone();
                    shared.lock().unwrap().connection = Some(Arc::new(connection));
                    Ok(Agreed { profile, material, certificate })
                }
            };
            shared.lock().unwrap().agreed = Some(agreed);
            let connection = shared.lock().unwrap().connection.clone();
            if let Some(connection) = connection {
                let mut buffer = [0; 100];
                while let Ok(len) = connection.read(&mut buffer, None).await {
                    shared.lock().unwrap().read.push(buffer[..len].to_vec());
                }
            }
            shared.lock().unwrap().closed = true;
        });
        Peer { runtime, pipe, progress, certificate }
    }

    pub(crate) fn push(&self, datagram: &[u8]) {
        self.pipe.inbound.lock().unwrap().push_back(datagram.to_vec());
        self.pipe.arrived.notify_one();
    }

    pub(crate) fn pump(&self) -> Vec<Vec<u8>> {
        self.runtime.block_on(tokio::task::yield_now());
        std::mem::take(&mut self.pipe.outbound.lock().unwrap())
    }

    pub(crate) fn finished(&self) -> bool {
        self.progress.lock().unwrap().agreed.is_some()
    }

    pub(crate) fn agreed(&self) -> Result<Agreed, String> {
        self.progress.lock().unwrap().agreed.take().expect("the peer has finished")
    }

    pub(crate) fn read(&self) -> Vec<Vec<u8>> {
        self.progress.lock().unwrap().read.clone()
    }

    pub(crate) fn closed(&self) -> bool {
        self.progress.lock().unwrap().closed
    }

    pub(crate) fn close(&self) {
        let connection = self.progress.lock().unwrap().connection.clone().expect("the peer is connected");
        self.runtime.spawn(async move { connection.close().await });
    }

    pub(crate) fn write(&self, data: &'static [u8]) {
        let connection = self.progress.lock().unwrap().connection.clone().expect("the peer is connected");
        self.runtime.spawn(async move { connection.write(data, None).await });
    }
}

/// One record around `payload`.
pub(crate) fn record(kind: u8, epoch: u16, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 0xFE, 0xFD];
    record.extend(epoch.to_be_bytes());
    record.extend(&number.to_be_bytes()[2..]);
    record.extend((payload.len() as u16).to_be_bytes());
    record.extend(payload);
    record
}

/// One handshake fragment.
pub(crate) fn fragment(kind: u8, sequence: u16, len: usize, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let u24 = |number: usize| [(number >> 16) as u8, (number >> 8) as u8, number as u8];
    let mut fragment = vec![kind];
    fragment.extend(u24(len));
    fragment.extend(sequence.to_be_bytes());
    fragment.extend(u24(offset));
    fragment.extend(u24(bytes.len()));
    fragment.extend(bytes);
    fragment
}

/// The records of a datagram.
pub(crate) fn records(datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut rest = datagram;
    while rest.len() > 13 {
        let len = 13 + usize::from(u16::from_be_bytes([rest[11], rest[12]]));
        records.push(rest[..len].to_vec());
        rest = &rest[len..];
    }
    records
}

/// The same messages with every plaintext handshake message cut into fragments of at most `size`, a datagram each.
pub(crate) fn shredded(datagram: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut shreds = Vec::new();
    for whole in records(datagram) {
        let is_plain_handshake = whole[0] == 22 && whole[3..5] == [0, 0];
        let body = &whole[13..];
        if !is_plain_handshake || body.len() == 12 {
            shreds.push(whole);
            continue;
        }
        let number =
            |at: usize| usize::from(body[at]) << 16 | usize::from(body[at + 1]) << 8 | usize::from(body[at + 2]);
        let (len, offset) = (number(1), number(6));
        let sequence = u16::from_be_bytes([body[4], body[5]]);
        for (piece, bytes) in body[12..].chunks(size).enumerate() {
            let fragment = fragment(body[0], sequence, len, offset + piece * size, bytes);
            shreds.push(record(22, 0, shreds.len() as u64, &fragment));
        }
    }
    shreds
}
