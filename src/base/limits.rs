//! Every maximum that a peer can push against, in one place. At a maximum: a named error or drop, a counter, and
//! nothing else harmed.

use std::time::Duration;

// Signalling.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
pub const JSON_DEPTH_MAX: usize = 32;
/// Token bucket per socket: sustained messages per second and burst.
pub const MESSAGES_PER_SECOND: u32 = 50;
pub const MESSAGES_BURST: u32 = 400;
/// Bytes queued to a WebSocket that does not read; beyond it the socket is closed.
pub const SOCKET_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
pub const NAME_BYTES_MAX: usize = 256;
pub const REQUEST_ID_BYTES_MAX: usize = 256;
pub const APP_DATA_BYTES_MAX: usize = 16 * 1024;
pub const SOCKETS_MAX: usize = 20_000;
pub const PEERS_PER_CHANNEL_MAX: usize = 5_000;
pub const TRANSPORTS_PER_PEER_MAX: usize = 16;
pub const PRODUCERS_PER_PEER_MAX: usize = 64;
pub const CONSUMERS_PER_PEER_MAX: usize = 1_024;
pub const CODECS_PER_PARAMETERS_MAX: usize = 64;
pub const EXTENSIONS_PER_PARAMETERS_MAX: usize = 64;
pub const FINGERPRINTS_MAX: usize = 8;
pub const ENCODINGS_MAX: usize = 8;

// Transport.
pub const TRANSPORTS_PER_SHARD_MAX: usize = 16_384;
pub const REMOTE_ADDRESSES_PER_TRANSPORT_MAX: usize = 8;
pub const FINGERPRINTS_PER_PEER_MAX: usize = 32;
/// Consent (RFC 7675 section 5.1): no authenticated check for this long and nothing is sent any more.
pub const CONSENT: Duration = Duration::from_secs(30);
/// A transport that stays disconnected this long is closed.
pub const DISCONNECTED_MAX: Duration = Duration::from_secs(600);
/// A finished handshake waits this long for its fingerprint to be announced.
pub const ANNOUNCEMENT_WAIT: Duration = Duration::from_secs(5);
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
pub const DTLS_QUEUE_MAX: usize = 256;
pub const STUN_PER_BATCH_MAX: usize = 32;

// Media.
pub const INCOMING_SSRCS_PER_TRANSPORT_MAX: usize = 256;
pub const SOURCES_PER_SHARD_MAX: usize = 65_536;
pub const HISTORY_PACKETS_MAX: usize = 1_024;
pub const HISTORY_BYTES_MAX: usize = 1_500_000;
pub const HISTORY_AGE_MAX: Duration = Duration::from_secs(1);
pub const HISTORY_BYTES_PER_SHARD_MAX: usize = 1 << 30;
pub const NACK_LIST_MAX: usize = 512;
/// Packets one transport-wide feedback may speak of: a few bytes of runs could make us walk 65,535, again and again in
/// one datagram.
pub const TRANSPORT_CC_PACKETS_MAX: u16 = 8_192;
pub const NACK_RETRIES_MAX: u8 = 10;
/// Largest jump of a sequence number that still counts as loss; beyond it the source has restarted
/// (RFC 3550 appendix A.1, MAX_DROPOUT).
pub const SEQUENCE_JUMP_MAX: i64 = 3_000;

// Egress.
/// A packet with everything that is added to it stays within this (IPv6 minimum MTU less IP and UDP headers).
pub const PACKET_BYTES_MAX: usize = 1_452;
pub const RUN_PACKETS_MAX: usize = 16;
pub const RUN_BYTES_MAX: usize = 20_000;
pub const RUN_HOLD_MAX: Duration = Duration::from_millis(1);
pub const EGRESS_QUEUE_MAX: usize = 1_024;

// Mesh.
pub const MESH_RING_BYTES: usize = 4 * 1024 * 1024;

const _: () = assert!(HISTORY_PACKETS_MAX.is_power_of_two(), "indexed with a mask");
const _: () = assert!(NACK_LIST_MAX <= HISTORY_PACKETS_MAX, "what is asked for must still be there to be served");
