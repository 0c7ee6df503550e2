//! One WebSocket after its handshake: frames in, texts out, pings, and a named end. What a text means is
//! [`crate::signal`]'s; a message over [`MESSAGE_BYTES_MAX`] never reaches it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Bytes, Error, Message};

use super::clock;
use super::control::Session;
use super::heard::Heard;
use super::runtime::Timing;
use crate::base::limits::MESSAGE_BYTES_MAX;
use crate::base::time::Instant;

/// Most bytes that are still read, and thrown away, from a peer that was told to close.
const GOODBYE_BYTES_MAX: usize = 8 * MESSAGE_BYTES_MAX;

/// Why a WebSocket ended; a label of `weirgate_sockets_closed_total`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It said goodbye.
    Left,
    /// The connection broke without a close frame.
    Lost,
    Silent,
    TooLong,
    NotUtf8,
    Protocol,
    TooSlow,
    Shutdown,
    /// Signalling put it out.
    Refused {
        code: u16,
        reason: String,
    },
}

impl End {
    pub(super) const NAMES: [&str; 9] = [
        "left",
        "lost",
        "silent",
        "message-too-long",
        "not-utf8",
        "protocol-error",
        "reads-too-slowly",
        "shutdown",
        "refused",
    ];

    /// Its place in [`End::NAMES`].
    pub(super) fn index(&self) -> usize {
        match self {
            End::Left => 0,
            End::Lost => 1,
            End::Silent => 2,
            End::TooLong => 3,
            End::NotUtf8 => 4,
            End::Protocol => 5,
            End::TooSlow => 6,
            End::Shutdown => 7,
            End::Refused { .. } => 8,
        }
    }

    /// RFC 6455 section 7.4.1. None: nobody is there to read it, or the peer's own close is answered already.
    fn close_frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            End::Left | End::Lost | End::Silent => return None,
            End::TooLong => (CloseCode::Size, format!("a message may have {MESSAGE_BYTES_MAX} bytes")),
            End::NotUtf8 => (CloseCode::Invalid, "a text message was not UTF-8".to_owned()),
            End::Protocol => (CloseCode::Protocol, "not a valid WebSocket frame".to_owned()),
            End::TooSlow => (CloseCode::Again, "this client reads too slowly".to_owned()),
            End::Shutdown => (CloseCode::Away, "the server is shutting down".to_owned()),
            End::Refused { code, reason } => (CloseCode::from(*code), clipped(reason)),
        };
        Some(CloseFrame { code, reason: reason.into() })
    }
}

/// A control frame carries at most 125 bytes, two of them the code (RFC 6455 section 5.5).
fn clipped(reason: &str) -> String {
    let end = (0..=reason.len().min(123)).rev().find(|end| reason.is_char_boundary(*end));
    reason[..end.unwrap_or_default()].to_owned()
}

/// Serves the socket until it ends. Its session is over, and the others are told, before the goodbye begins.
pub(super) async fn serve<IO: AsyncRead + AsyncWrite + Unpin>(stream: IO, session: Session, timing: Timing) {
    let (stream, heard) = Heard::new(stream);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        // It is zeroed, so that each client has all of it in memory; longer messages make it grow.
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0);
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (mut sink, mut stream) = socket.split();
    let end = tokio::select! {
        end = session.outbox().ended() => end,
        end = read(&session, &mut stream) => end,
        end = write(&session, &mut sink, timing.ping_interval) => end,
        end = silence(&heard, timing.silence_max) => end,
    };
    let outbox = session.close(&end);
    let Ok(mut socket) = stream.reunite(sink) else { return };
    let goodbye = async {
        if matches!(end, End::Refused { .. } | End::Shutdown) {
            while let Some(text) = outbox.pop() {
                socket.feed(Message::text(text)).await?;
            }
        }
        match end.close_frame() {
            Some(frame) => socket.send(Message::Close(Some(frame))).await?,
            None => socket.flush().await?,
        }
        // The peer may still be sending. Closing with unread bytes would reset the connection and take the close
        // frame with it, so our half ends first and the rest is read away.
        let stream = socket.get_mut();
        stream.shutdown().await?;
        let mut scratch = [0; 4096];
        let mut left = GOODBYE_BYTES_MAX;
        while left > 0 {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<(), Error>(())
    };
    if !matches!(end, End::Lost | End::Silent) {
        // Ok or not, nothing is left to be done: the stream closes when it is dropped.
        let _ = timeout(timing.goodbye, goodbye).await;
    }
}

async fn read<IO: AsyncRead + AsyncWrite + Unpin>(
    session: &Session,
    stream: &mut SplitStream<WebSocketStream<IO>>,
) -> End {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => session.handle_text(&text),
            Some(Ok(Message::Binary(_))) => session.handle_binary(),
            // Pings are answered by tungstenite, with the next read or write.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) => return End::Left,
            Some(Err(Error::Capacity(_))) => return End::TooLong,
            Some(Err(Error::Utf8(_))) => return End::NotUtf8,
            Some(Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake))) => {
                return End::Lost;
            }
            Some(Err(Error::Protocol(_))) => return End::Protocol,
            Some(Err(_)) | None => return End::Lost,
        }
    }
}

async fn write<IO: AsyncRead + AsyncWrite + Unpin>(
    session: &Session,
    sink: &mut SplitSink<WebSocketStream<IO>, Message>,
    ping_interval: Duration,
) -> End {
    let mut ping = interval(ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.reset();
    loop {
        let sent = tokio::select! {
            text = session.outbox().next() => {
                let length = text.len();
                let sent = sink.send(Message::text(text)).await;
                session.outbox().written(length);
                sent
            }
            _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await,
        };
        if sent.is_err() {
            // The reader knows better why; it finds the same end.
            return std::future::pending().await;
        }
    }
}

async fn silence(heard: &Rc<Cell<Instant>>, silence_max: Duration) -> End {
    loop {
        let deadline = heard.get() + silence_max;
        if clock::now() >= deadline {
            return End::Silent;
        }
        sleep_until(clock::at(deadline)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::SOCKET_QUEUE_BYTES_MAX;
    use crate::server::control::Control;
    use crate::server::metrics;
    use crate::signal::{Hub, HubSettings, Origins};

    #[test]
    fn every_end_has_its_own_name() {
        let ends = [
            End::Left,
            End::Lost,
            End::Silent,
            End::TooLong,
            End::NotUtf8,
            End::Protocol,
            End::TooSlow,
            End::Shutdown,
            End::Refused { code: 1008, reason: String::new() },
        ];
        let indices: Vec<usize> = ends.iter().map(End::index).collect();
        assert_eq!(indices, (0..End::NAMES.len()).collect::<Vec<_>>());
    }

    #[test]
    fn a_reason_fits_a_control_frame() {
        let frame = End::Refused { code: 1008, reason: "é".repeat(200) }.close_frame().unwrap();
        assert_eq!((frame.reason.len(), u16::from(frame.code)), (122, 1008));
    }

    struct Nowhere;

    impl crate::server::Tower for Nowhere {
        fn send(&self, _: crate::base::id::ShardId, _: crate::shard::command::Command) {}

        fn load_permille(&self, _: crate::base::id::ShardId) -> u32 {
            0
        }
    }

    #[test]
    fn who_reads_nothing_is_let_go_with_all_that_waits() {
        let settings = HubSettings {
            shards: vec![],
            candidates: vec![],
            fingerprint_sha256: String::new(),
            spread: Default::default(),
            last_n: Default::default(),
            log: Default::default(),
            seed: [1; 32],
        };
        let control = Rc::new(Control::new(Hub::new(settings), vec![], Box::new(Nowhere), Origins::default()));
        let timing = Timing { goodbye: Duration::from_millis(50), ..Timing::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let page = runtime.block_on(async {
            let Ok(session) = control.open([192, 0, 2, 1].into(), "anna", "room") else { panic!("the hub is empty") };
            let (ours, theirs) = tokio::io::duplex(4096);
            let outbox = session.outbox().clone();
            let flood = async {
                // One text each turn, so that the writer is in the middle of one when the bound is met.
                for _ in 0..SOCKET_QUEUE_BYTES_MAX / 10_000 {
                    outbox.push("x".repeat(16_384));
                    tokio::task::yield_now().await;
                }
            };
            tokio::join!(flood, serve(ours, session, timing));
            drop(theirs);
            metrics::page(&control).await
        });
        assert_eq!((control.sockets(), control.counts().peers), (0, 0));
        assert!(page.contains("weirgate_sockets_closed_total{why=\"reads-too-slowly\"} 1"), "{page}");
    }
}
