//! Every maximum that a peer can push against, in one place. At a maximum: a named error or drop, a counter, and
//! nothing else harmed.

use std::time::Duration;

// Signalling.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
pub const JSON_DEPTH_MAX: usize = 32;
/// The longest list of parameters that a browser makes has some 2,000.
pub const JSON_VALUES_MAX: usize = 16_384;
/// Token bucket per socket: sustained messages per second and burst. The cost of a message is charged in messages: a
/// number of bytes read beyond those that are free, bytes told, receivers told, and objects walked each cost as much as
/// one.
pub const MESSAGES_PER_SECOND: u32 = 50;
pub const MESSAGES_BURST: u32 = 400;
pub const FREE_BYTES_PER_MESSAGE: usize = 8 * 1024;
pub const METERED_BYTES_READ: usize = 4 * 1024;
pub const METERED_BYTES_TOLD: usize = 16 * 1024;
pub const METERED_RECEIVERS: usize = 16;
pub const METERED_OBJECTS: usize = 256;
/// Bytes of send-message that cost as much as one message, beside their delivery: no queue may leave them out.
pub const METERED_BYTES_SAID: usize = 1_024;
/// How many times that for the user: whatever its sockets say together stays about what one may say.
pub const METERED_SAID_BY_USER: u32 = USER_METER_SIZE + 2;
/// What a refused token costs the address that it came from, in messages.
pub const METERED_KNOCK_IN_VAIN: usize = 50;
/// What a join costs its address and its user, in messages, beside the news of it for others: a channel may begin and end
/// by it, and webhooks and logs hear of each.
pub const METERED_JOIN: usize = 10;
/// What a TLS handshake costs its address, in messages: a signature.
pub const METERED_TLS_HANDSHAKE: usize = 20;
/// The buckets of one user (a name at one address) and of one address, in multiples of a socket's.
pub const USER_METER_SIZE: u32 = 8;
pub const ADDRESS_METER_SIZE: u32 = 40;
/// Messages in a row over the rate, each answered with an error, before the socket is closed.
pub const RATE_REFUSALS_MAX: u32 = 200;
/// Bytes queued to a WebSocket that does not read; beyond it the socket is closed.
pub const SOCKET_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes queued to a WebSocket above which it is not read.
pub const SOCKET_QUEUE_PAUSE_BYTES: usize = 256 * 1024;
/// Bytes queued to all WebSockets and read from them as parts of messages; beyond it the one with the most is closed.
pub const SOCKETS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of texts kept for one peer whose socket is gone, and for all such peers; beyond either a peer is let go.
pub const AWAY_BYTES_MAX: usize = 1024 * 1024;
pub const AWAY_PEERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of these what others say by send-message.
pub const AWAY_SAID_BYTES_MAX: usize = AWAY_BYTES_MAX / 2;
/// Bytes of texts that a peer with a resume token was sent and has not acknowledged; beyond it the oldest are given up.
/// They count among [`AWAY_PEERS_BYTES_MAX`].
pub const UNACKNOWLEDGED_BYTES_MAX: usize = 1024 * 1024;
/// Peers whose time is over that one turn ends, or tells the others about.
pub const PARTINGS_PER_TURN_MAX: usize = 8;
/// Texts after which one turn leaves the rest of them to the next; one of them has at most one for each peer of a channel.
pub const TOLD_PER_TURN_MAX: usize = 2_048;
/// Of the operator's setting.
pub const RESUME_GRACE_MAX: Duration = Duration::from_secs(600);
/// A break that is shorter is told to nobody.
pub const AWAY_TOLD_AFTER: Duration = Duration::from_secs(2);
/// The pause up to which pings of a client count as regular, and the number of them in a row after which its silence
/// counts as a break.
pub const REGULAR_PING_PAUSE_MAX: Duration = Duration::from_millis(1_500);
pub const REGULAR_PINGS: u32 = 3;
/// The silence of a client that pings regularly after which its socket is asked for a sign of life, and after which it
/// is broken.
pub const REGULAR_PING_ASKED_AFTER: Duration = Duration::from_secs(1);
pub const REGULAR_PING_SILENCE_MAX: Duration = Duration::from_secs(2);
/// Bytes on the wire that one message may take with the frames it comes in.
pub const MESSAGE_WIRE_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 64 * 1024;
pub const NAME_BYTES_MAX: usize = 256;
/// A token that says who somebody is, and one that takes a peer up again.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Names and patterns in the channel claim of a token.
pub const TOKEN_CHANNELS_MAX: usize = 32;
/// Tokens and users that are revoked, and used tokens for one entrance, until they expire.
pub const REVOKED_MAX: usize = 10_000;
/// How long the admin API may have one remembered.
pub const REVOKED_FOR_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
pub const TOKENS_ONCE_MAX: usize = 100_000;
/// Keys that tokens are checked with, and the length of a file of them.
pub const TOKEN_KEYS_MAX: usize = 16;
pub const TOKEN_KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Sources that one peer may be granted.
pub const GRANT_SOURCES_MAX: usize = 32;
/// STUN and TURN servers that clients are told of.
pub const ICE_SERVERS_MAX: usize = 8;
pub const REQUEST_ID_BYTES_MAX: usize = 256;
pub const APP_DATA_BYTES_MAX: usize = 16 * 1024;
pub const SOCKETS_MAX: usize = 20_000;
/// The default of the operator's setting.
pub const SOCKETS_PER_ADDRESS: usize = 1_000;
pub const SOCKETS_PER_USER: usize = 100;
/// Transports that no ICE check has come for yet.
pub const UNCHECKED_TRANSPORTS_PER_USER_MAX: usize = 128;
pub const UNCHECKED_TRANSPORTS_PER_ADDRESS_MAX: usize = 1_024;
/// Half of what one shard has room for.
pub const UNCHECKED_TRANSPORTS_LOOPBACK_MAX: usize = TRANSPORTS_PER_SHARD_MAX / 2;
pub const PEERS_PER_CHANNEL_MAX: usize = 5_000;
/// Peers that wait to be let into one channel. One request may let all of them in.
pub const WAITING_PER_CHANNEL_MAX: usize = 100;
/// Users whose mutes one channel remembers, and the sources by name of each kind; of more, the whole kind is muted.
pub const MUTED_PER_CHANNEL_MAX: usize = 1_000;
pub const MUTED_SOURCES_MAX: usize = 8;
/// Bans of one channel and of all, and how long one may last.
pub const BANS_PER_CHANNEL_MAX: usize = 1_000;
pub const BANS_MAX: usize = 16_384;
pub const BAN_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// What a moderator says to who is removed.
pub const NOTICE_BYTES_MAX: usize = 256;
/// The data of one send-message, as JSON.
pub const SAID_BYTES_MAX: usize = 16 * 1024;
pub const PRODUCERS_PER_CHANNEL_MAX: usize = 10_000;
/// More than anybody can tell apart; without the option all are forwarded.
pub const LAST_N_MAX: usize = 100;
pub const STATS_PENDING_PER_PEER_MAX: usize = 32;
/// The appData that one list of producers carries; later entries are listed without.
pub const LIST_APP_DATA_BYTES_MAX: usize = 512 * 1024;
pub const TRANSPORTS_PER_PEER_MAX: usize = 16;
pub const PRODUCERS_PER_PEER_MAX: usize = 64;
pub const CONSUMERS_PER_PEER_MAX: usize = 1_024;
/// Consumers of one producer by one peer: a large picture and a small one, and again on another transport.
pub const CONSUMERS_PER_PEER_AND_PRODUCER_MAX: usize = 4;
/// Consumers of one producer by all peers.
pub const CONSUMERS_PER_PRODUCER_MAX: usize = 2 * PEERS_PER_CHANNEL_MAX;
pub const CODECS_PER_PARAMETERS_MAX: usize = 64;
pub const EXTENSIONS_PER_PARAMETERS_MAX: usize = 64;
pub const FINGERPRINTS_MAX: usize = 8;
pub const ENCODINGS_MAX: usize = 8;
pub const PARAMETERS_PER_CODEC_MAX: usize = 32;
pub const CODEC_PARAMETER_BYTES_MAX: usize = 1_024;
pub const FEEDBACK_PER_CODEC_MAX: usize = 32;
/// An SDES item's length is one byte (RFC 3550 section 6.5).
pub const CNAME_BYTES_MAX: usize = 255;
/// The most that set-max-bitrate takes, in bits a second.
pub const BITRATE_MAX: usize = 1_000_000_000;
/// Log lines about peers: sustained, and at once.
pub const PEER_LINES_PER_SECOND: u64 = 200;
pub const PEER_LINES_BURST: u64 = 4_000;
/// Such lines that wait for something or for their time.
pub const LIVES_DUE_MAX: usize = 65_536;

// The control edge.
/// TCP connections at once that are not, or not yet, WebSockets.
pub const HTTP_CONNECTIONS_MAX: usize = 4_096;
/// The same for the admin listener, which they cannot crowd out.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Entries of one page of a list of the admin API, and the bytes of a body that it reads.
pub const ADMIN_PAGE_MAX: usize = 200;
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;
/// Questions of the admin API that wait for a shard.
pub const ADMIN_QUESTIONS_MAX: usize = 512;
/// Listeners of the event stream at once; entries and bytes that are kept for them; entries that one may miss before it
/// is let go; how long entries are kept when nobody listens.
pub const EVENT_LISTENERS_MAX: usize = 16;
pub const EVENTS_KEPT_MAX: usize = 4_096;
pub const EVENTS_KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
pub const EVENTS_MISSED_MAX: u64 = 4 * EVENTS_KEPT_MAX as u64;
pub const EVENTS_KEPT_FOR: Duration = Duration::from_secs(60);
/// Hooks; secrets that sign together; attempts at a time for one hook, each for another channel.
pub const WEBHOOKS_MAX: usize = 16;
pub const WEBHOOK_SECRETS_MAX: usize = 4;
pub const WEBHOOK_PARALLEL_MAX: usize = 8;
/// Events between the signalling thread and that of webhooks, and events and bytes that wait for one hook.
pub const WEBHOOK_EVENTS_ON_THE_WAY_MAX: usize = 8_192;
pub const WEBHOOK_EVENTS_MAX: usize = 16_384;
pub const WEBHOOK_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a hook may take to answer, how often an event is tried, for how long, and the waits between two attempts.
pub const WEBHOOK_ANSWER_WAIT: Duration = Duration::from_secs(10);
pub const WEBHOOK_ATTEMPTS_MAX: u32 = 10;
pub const WEBHOOK_AGE_MAX: Duration = Duration::from_secs(600);
pub const WEBHOOK_FIRST_WAIT: Duration = Duration::from_secs(1);
pub const WEBHOOK_LAST_WAIT: Duration = Duration::from_secs(60);
/// Connections of one address (of IPv6: one /64) that wait for a request.
pub const HTTP_IDLE_PER_ADDRESS_MAX: usize = 256;
/// Bytes that a client may send before its TLS handshake is done; a ClientHello with post-quantum keys has 2,000.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// Encrypted bytes towards one client that its socket has not taken.
pub const TLS_WRITE_BYTES_MAX: usize = 16 * 1024;
/// A file of certificates, or of a key.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Names in a certificate by ACME: as many as public authorities take.
pub const ACME_DOMAINS_MAX: usize = 100;
/// What an ACME server answers: its length, its time, the addresses of it that are tried, and the wait that it may ask for.
pub const ACME_BODY_BYTES_MAX: usize = 256 * 1024;
pub const ACME_REQUEST_WAIT: Duration = Duration::from_secs(30);
pub const ACME_ADDRESSES_MAX: usize = 4;
pub const ACME_RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A whole order, and the least between two.
pub const ACME_ORDER_WAIT: Duration = Duration::from_secs(600);
pub const ACME_ORDER_PAUSE: Duration = Duration::from_secs(10);
/// Request line and headers of one HTTP request.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
pub const HTTP_HEADERS_MAX: usize = 64;
/// A request head must be complete within this.
pub const HTTP_HEAD_WAIT: Duration = Duration::from_secs(10);
/// A connection that has not become a WebSocket ends after this, whatever it does.
pub const HTTP_CONNECTION_MAX: Duration = Duration::from_secs(120);
/// WebSockets that bring their credential in the first message, or are being turned away; the oldest gives way. Each is
/// bounded by bytes on the wire and by time.
pub const ENTRY_SOCKETS_MAX: usize = 4_096;
pub const ENTRY_BYTES_MAX: usize = TOKEN_BYTES_MAX + 4 * 1024;
pub const ENTRY_WAIT: Duration = Duration::from_secs(5);
pub const SOCKET_PING_INTERVAL: Duration = Duration::from_secs(20);
/// A WebSocket from which not one byte came for this long is dead.
pub const SOCKET_SILENCE_MAX: Duration = Duration::from_secs(50);
/// How long a closing WebSocket may take to read its close frame and answer it.
pub const SOCKET_GOODBYE: Duration = Duration::from_secs(2);
/// A shard that has not answered a question within this is taken for dead.
pub const SHARD_ANSWER_WAIT: Duration = Duration::from_secs(1);

// The machine.
pub const SHARDS_MAX: usize = 256;

// Transport.
pub const TRANSPORTS_PER_SHARD_MAX: usize = 16_384;
pub const CONSUMERS_PER_TRANSPORT_MAX: usize = CONSUMERS_PER_PEER_MAX;
pub const REMOTE_ADDRESSES_PER_TRANSPORT_MAX: usize = 8;
pub const FINGERPRINTS_PER_PEER_MAX: usize = 32;
/// The allowance on unproved paths of a client, beside three times what it has sent there itself: 600 ms of video at
/// 2.5 Mbit/s, 2 s at 700 kbit/s. The first transport-wide feedback comes in a fifth of a second; a client that sends
/// none answers a sender report in one or two.
pub const UNPROVED_BYTES_MAX: usize = 256 * 1024;
/// Transports that have passed a check on a path that another one holds.
pub const RIVALS_PER_PATH_MAX: usize = 4;
/// The length of a connectivity check. USERNAME takes 516 bytes at most (RFC 8489 section 14.3); all additions of
/// browsers stay under 150.
pub const CHECK_BYTES_MAX: usize = 768;
/// Handshakes that one address (of IPv6: one /64) may begin on one shard: at once, and each second after that. Loopback
/// may begin as many as it likes.
pub const HANDSHAKES_BURST: u32 = 200;
pub const HANDSHAKES_PER_SECOND: u32 = 50;
/// Addresses whose handshakes are counted; at the bound the oldest are forgotten.
pub const HANDSHAKE_ADDRESSES_MAX: usize = 8_192;
/// Consent (RFC 7675 section 5.1): no authenticated check for this long and nothing is sent any more.
pub const CONSENT: Duration = Duration::from_secs(30);
/// A transport that was announced and that no check comes for within this ends.
pub const CHECK_WAIT: Duration = Duration::from_secs(30);
/// A transport that stays disconnected this long is closed.
pub const DISCONNECTED_MAX: Duration = Duration::from_secs(600);
/// A finished handshake waits this long for its fingerprint to be announced.
pub const ANNOUNCEMENT_WAIT: Duration = Duration::from_secs(5);
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
/// Datagrams of one handshake between its gate and the library.
pub const DTLS_QUEUE_MAX: usize = 256;
/// Datagrams of one shard that wait for its thread of handshakes, and the thread's answers that the shard has not
/// fetched.
pub const HANDSHAKE_DATAGRAMS_WAITING_MAX: usize = 2_048;
pub const HANDSHAKE_REPORTS_WAITING_MAX: usize = 16_384;
/// The length of a handshake message. The DTLS library reads datagrams of at most 8,192 bytes; certificates and hellos
/// of WebRTC stay under 3,000.
pub const HANDSHAKE_MESSAGE_BYTES_MAX: usize = 8_000;
/// All memory of the gate for one handshake: messages in pieces and records that came early.
pub const HANDSHAKE_BYTES_MAX: usize = 24_000;
/// How far ahead of the next handshake message a fragment may lie.
pub const HANDSHAKE_MESSAGES_AHEAD_MAX: u16 = 8;
pub const CERTIFICATES_PER_CHAIN_MAX: usize = 8;
/// Encrypted records that came before the keys to read them (the newest are kept), their size, and how many may reach
/// the library before the handshake is done.
pub const EARLY_RECORDS_MAX: usize = 8;
pub const EARLY_RECORD_BYTES_MAX: usize = 256;
pub const HANDSHAKE_ENCRYPTED_RECORDS_MAX: usize = 64;
/// Media that came before its keys: of one transport, of one shard, and for how long it is kept.
pub const EARLY_PACKETS_MAX: u8 = 64;
pub const EARLY_PACKETS_PER_SHARD_MAX: usize = 1_024;
pub const EARLY_MAX: Duration = Duration::from_millis(500);
/// How often a refused hello is answered with an alert.
pub const REFUSALS_MAX: u32 = 8;
/// How often a lost flight is sent again because the peer repeats its own: during the handshake, and after it.
pub const FLIGHT_RESENDS_MAX: u32 = 20;
pub const FLIGHT_DATAGRAMS_MAX: usize = 32;
/// Attributes of one STUN message; clients write up to ten.
pub const STUN_ATTRIBUTES_MAX: usize = 64;
/// ICE checks that are answered in a round that also brought media.
pub const STUN_BESIDE_MEDIA_MAX: usize = 32;

// Media.
/// Header extension elements of one packet that are read. Browsers send up to ten.
pub const EXTENSION_ELEMENTS_MAX: usize = 32;
pub const INCOMING_SSRCS_PER_TRANSPORT_MAX: usize = 256;
/// SSRCs beyond these are remembered by their highest index alone, so that none of their packets counts twice.
pub const PARKED_SSRCS_PER_TRANSPORT_MAX: usize = 4_096;
pub const OUTGOING_SSRCS_PER_TRANSPORT_MAX: usize = 4_096;
/// SSRCs that were given up; they are never sealed for again.
pub const RETIRED_SSRCS_PER_TRANSPORT_MAX: usize = 65_536;
pub const SOURCES_PER_SHARD_MAX: usize = 65_536;
pub const HISTORY_PACKETS_MAX: usize = 1_024;
pub const HISTORY_BYTES_MAX: usize = 1_500_000;
pub const HISTORY_AGE_MAX: Duration = Duration::from_secs(1);
pub const HISTORY_BYTES_PER_SHARD_MAX: usize = 1 << 30;
/// H.264 parameter sets that are kept of one stream: how many, of how many bytes each and together. Encoders send two
/// or three of some 20 bytes; each must fit a packet, and all of them a record between shards.
pub const PARAMETER_SETS_MAX: usize = 8;
pub const PARAMETER_SET_BYTES_MAX: usize = 1_000;
pub const PARAMETER_SETS_BYTES_MAX: usize = 2_048;
pub const NACK_LIST_MAX: usize = 512;
/// Packets covered by one transport-wide feedback: a few bytes of runs could make us walk 65,535, again and again in
/// one datagram.
pub const TRANSPORT_CC_PACKETS_MAX: u16 = 8_192;
/// The work that one RTCP datagram may cause on a shard, in steps of some ten nanoseconds (`shard::effort`).
pub const RTCP_STEPS_MAX: u32 = 1_024;
/// Consumers that one turn looks at because of commands and feedback; the others wait for the next turn.
pub const SETTLED_PER_TURN_MAX: usize = 4_096;
/// Packets resent to one receiver beyond the number sent to it meanwhile.
pub const RESENT_BURST_MAX: u32 = 512;
pub const NACK_RETRIES_MAX: u8 = 10;
/// Largest jump of a sequence number that still counts as loss; beyond it the source has restarted
/// (RFC 3550 appendix A.1, MAX_DROPOUT).
pub const SEQUENCE_JUMP_MAX: i64 = 3_000;
/// How long packets of an SSRC that its stream has given up may still be under way: its mid and rid then name the
/// stream of its successor, and must not bring it back.
pub const FORMER_SSRC: Duration = Duration::from_secs(2);
pub const FORMER_SSRCS_MAX: usize = 32;
/// The most that --coalesce-max may be.
pub const COALESCE_MAX: Duration = Duration::from_millis(20);
/// Opus at 20 ms for five seconds.
pub const HISTORY_AUDIO_PACKETS_MAX: usize = 256;
pub const HISTORY_AUDIO_BYTES_MAX: usize = 64 * 1024;
/// Places where a consumer's numbering closed up over packets that were not forwarded; late packets from before the
/// oldest one are dropped.
pub const SKIP_BOUNDARIES_MAX: usize = 64;
/// Transport-wide sequence numbers whose arrival is kept for feedback.
pub const ARRIVALS_MAX: usize = 1_024;
/// Packets covered by one transport-cc feedback message: with two bytes each it still fits one datagram.
pub const FEEDBACK_PACKETS_MAX: usize = 512;

/// Packets sent to one client whose transport-wide feedback may still come.
pub const SENT_LOG_MAX: usize = 8_192;

/// Packets of an unknown SSRC that wait for their produce, per transport, and for how long.
pub const LIMBO_PACKETS_MAX: usize = 64;
pub const LIMBO_MAX: Duration = Duration::from_millis(500);
/// Packets whose transport-wide number waits for the id under which it comes, per transport, and for how long.
pub const EARLY_NUMBERS_MAX: usize = 512;
pub const EARLY_NUMBERS_WAIT: Duration = Duration::from_secs(2);
/// A producer that sent nothing for this long is not offered to a consume without producerId.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

// Egress.
/// A packet with everything but its tag stays within this: what an Ethernet frame carries less IPv6 and UDP headers.
/// Publishers send up to 1,200 bytes, and what is added to those stays below the IPv6 minimum of 1,232.
pub const PACKET_BYTES_MAX: usize = 1_452;
pub const RUN_PACKETS_MAX: usize = 48;
pub const RUN_BYTES_MAX: usize = 60_000;
pub const RUN_HOLD_MAX: Duration = Duration::from_millis(1);
/// Packets sent to a consumer at once because the start of its keyframe came after them; a start that is later still
/// does not count.
pub const CATCH_UP_PACKETS_MAX: u64 = 256;
pub const EGRESS_QUEUE_MAX: usize = 1_024;
/// The replay for joiners from the history: per transport at a time, and the greatest age of the keyframe.
pub const REPLAY_BYTES_MAX: usize = 300_000;
pub const REPLAY_AGE_MAX: Duration = Duration::from_secs(1);

// Mesh.
/// Relays asked for before their producer came, and how long such a request waits for it.
pub const RELAYS_AWAITED_MAX: usize = 4_096;
pub const RELAY_WAIT: Duration = Duration::from_secs(1);
/// Orders between shards that wait while a ring is full; media is dropped.
pub const MESH_ORDERS_MAX: usize = 16_384;
/// Paths of other shards that one shard remembers where the kernel does not steer.
pub const PATHS_ELSEWHERE_MAX: usize = 262_144;
/// Each ring between two shards; smaller when very many shards share the total. Untouched pages cost nothing.
pub const MESH_RING_BYTES: usize = 1024 * 1024;
pub const MESH_RING_BYTES_MIN: usize = 256 * 1024;
pub const MESH_TOTAL_BYTES_MAX: usize = 1 << 30;
pub const MESH_RECORD_BYTES_MAX: usize = 4_096;

// Cluster.
/// A message on the bus before it is sealed.
pub const BUS_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Nodes of a cluster that one node knows beside itself.
pub const NODES_MAX: usize = 1_024;
/// Senders on the bus whose numbers are remembered; at the bound the one that was silent longest is forgotten.
pub const BUS_SENDERS_MAX: usize = 4_096;
/// The name or the region of a node.
pub const NODE_NAME_BYTES_MAX: usize = 64;
pub const NODE_URL_BYTES_MAX: usize = 512;
/// Protocols of whose versions a node tells.
pub const NODE_PROTOCOLS_MAX: usize = 8;
pub const CLUSTER_KEYS_MAX: usize = 4;
pub const CLUSTER_KEY_FILE_BYTES_MAX: u64 = 4_096;
/// Lanes to one node whose state counts.
pub const NODE_LANES_MAX: usize = 4_096;
/// What one member tells of a channel that waits here for what is missing before it.
pub const TOLD_WAITING_MAX: usize = 256;
/// Messages that one roster may take.
pub const ROSTER_PAGES_MAX: usize = 128;
/// appData in one roster; entries beyond go without.
pub const ROSTER_APP_DATA_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Peers and producers of other nodes in one channel.
pub const GHOSTS_PER_CHANNEL_MAX: usize = 5_000;
pub const GHOST_PRODUCERS_PER_CHANNEL_MAX: usize = 20_000;
/// Other nodes that have peers of one channel.
pub const MEMBERS_PER_CHANNEL_MAX: usize = NODES_MAX;
/// Texts of clients, and their bytes, that wait while a channel looks for its other members.
pub const TEXTS_WAITING_MAX: usize = 1_024;
pub const TEXTS_WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Channels in one `held`.
pub const HELD_MAX: usize = 4_096;
/// Messages for one subscription, or for one process on a bus of this machine, that wait to be read.
pub const BUS_QUEUE_MAX: usize = 4_096;

// Lanes to shards of other nodes.
/// Lanes of one shard.
pub const LANES_PER_SHARD_MAX: usize = 1_024;
/// Other nodes that a shard knows, and addresses of one.
pub const LANE_NODES_MAX: usize = 4_096;
/// Imports of one lane: entries of the table that handles index.
pub const LANE_IMPORTS_MAX: usize = 16_384;
/// Exports of one lane.
pub const LANE_EXPORTS_MAX: usize = 16_384;
/// Subscriptions by lane that wait for a producer to be announced.
pub const LANE_AWAITED_MAX: usize = 4_096;
/// Records that wait for one lane's flush.
pub const LANE_QUEUE_MAX: usize = 4_096;
/// Datagrams whose arrival is kept for feedback, and sent ones that wait for it.
pub const LANE_ARRIVALS_MAX: usize = 4_096;
pub const LANE_SENT_MAX: usize = 8_192;
/// Orders that wait for their acknowledgement; those that came before one that is missing.
pub const LANE_ORDERS_MAX: usize = 8_192;
pub const LANE_ORDERS_AHEAD_MAX: usize = 256;
/// Records in parts that wait for their rest, and the parts of one.
pub const LANE_PARTIAL_MAX: usize = 64;
pub const LANE_PARTS_MAX: usize = 4;

// Network edge.
/// Bound addresses: a bit each in the plain backend.
pub const LOCAL_ADDRESSES_MAX: usize = 64;
/// Entries in the kernel's map from remote address to shard, all shards together.
pub const STEERED_PATHS_MAX: usize = 131_072;
/// Destinations remembered as refusing runs; at the bound the memory starts afresh.
pub const GSO_REFUSED_MAX: usize = 4_096;

const _: () = assert!(SOCKET_PING_INTERVAL.as_secs() * 2 < SOCKET_SILENCE_MAX.as_secs(), "one lost ping kills nobody");
const _: () = assert!(2 * CONSUMERS_PER_TRANSPORT_MAX <= OUTGOING_SSRCS_PER_TRANSPORT_MAX, "each has two");
const _: () = assert!(SOCKET_QUEUE_PAUSE_BYTES < SOCKET_QUEUE_BYTES_MAX && SOCKET_QUEUE_BYTES_MAX < SOCKETS_BYTES_MAX);
const _: () = assert!(HISTORY_PACKETS_MAX.is_power_of_two(), "indexed with a mask");
const _: () = assert!(HISTORY_AUDIO_PACKETS_MAX.is_power_of_two(), "indexed with a mask");
const _: () = assert!(SENT_LOG_MAX.is_power_of_two(), "indexed with a mask");
const _: () = assert!(ARRIVALS_MAX.is_power_of_two() && FEEDBACK_PACKETS_MAX <= ARRIVALS_MAX);
const _: () = assert!(NACK_LIST_MAX <= HISTORY_PACKETS_MAX, "what is asked for must still be there to be served");
