//! One WebSocket after its handshake: frames in, texts out, pings, and a named end. [`crate::signal`] reads the texts;
//! a message over [`MESSAGE_BYTES_MAX`] never reaches it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message};

use super::control::Session;
use super::end::SocketEnd;
use super::frames::{self, SocketFrame};
use super::heard::{AwakeClock, Heard, ReadHalf};
use super::outbox::Line;
use super::sign_of_life::{SignOfLife, Vigil};
use super::timing::Timing;
use crate::base::limits::{ENTRY_BYTES_MAX, FREE_BYTES_PER_MESSAGE, MESSAGE_BYTES_MAX, MESSAGE_WIRE_BYTES_MAX};

/// Most bytes that are still read, and thrown away, from a peer that was told to close.
const GOODBYE_BYTES_MAX: usize = 8 * MESSAGE_BYTES_MAX;

/// An open socket, whosever it is.
pub(super) struct OpenSocket<IO> {
    pub(super) stream: WebSocketStream<ReadHalf<tokio::io::ReadHalf<IO>>>,
    writer: WriteHalf<IO>,
    pub(super) heard: Rc<Heard>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> OpenSocket<IO> {
    pub(super) async fn new(stream: IO, awake: Rc<AwakeClock>) -> OpenSocket<IO> {
        let (reader, writer) = tokio::io::split(stream);
        let heard = Rc::new(Heard::new(awake));
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
            // It is zeroed, so that each client has all of it in memory; longer messages make it grow.
            .read_buffer_size(4 * 1024)
            .write_buffer_size(0)
            .max_write_buffer_size(1_024);
        let half = ReadHalf::new(reader, heard.clone());
        let stream = WebSocketStream::from_raw_socket(half, Role::Server, Some(config)).await;
        OpenSocket { stream, writer, heard }
    }

    /// Says one thing and closes.
    pub(super) async fn part(mut self, text: &str, frame: &CloseFrame) -> std::io::Result<()> {
        self.writer.write_all(&[frames::text(text), frames::close(Some(frame))].concat()).await?;
        self.writer.flush().await?;
        // A page may hear of the upgrade and of the connection's end at once, and then of nothing said between: it closes
        // first. Whatever it sends until then is thrown away; what is longer is not even read as messages.
        self.heard.allow(ENTRY_BYTES_MAX);
        let next = |cx: &mut std::task::Context<'_>| match self.stream.poll_next_unpin(cx) {
            Poll::Pending if self.heard.is_spent() => Poll::Ready(None),
            other => other,
        };
        let mut messages = futures_util::stream::poll_fn(next);
        while let Some(Ok(message)) = messages.next().await {
            if message.is_close() {
                break;
            }
        }
        self.heard.allow(usize::MAX);
        close(&mut self.stream, &mut self.writer, &[]).await
    }
}

/// Writes the last bytes. The peer may still be sending: closing with unread bytes would reset the connection and lose
/// the close frame, so our half ends first and the rest is read and discarded.
async fn close<IO: AsyncRead + Unpin>(
    stream: &mut WebSocketStream<ReadHalf<IO>>,
    writer: &mut (impl AsyncWrite + Unpin),
    last_words: &[u8],
) -> std::io::Result<()> {
    writer.write_all(last_words).await?;
    writer.flush().await?;
    writer.shutdown().await?;
    let mut scratch = [0; 4096];
    let mut left = GOODBYE_BYTES_MAX;
    while left > 0 {
        match stream.get_mut().read(&mut scratch).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

/// Serves the socket until it ends. Its session is over, and the others are told, before the goodbye begins.
pub(super) async fn serve<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    socket: OpenSocket<IO>,
    session: Session,
    timing: Timing,
) {
    let OpenSocket { mut stream, writer, heard } = socket;
    session.outbox().connect(Box::new(writer));
    let (mut farewell, pings) = (None, Notify::new());
    let end = tokio::select! {
        biased;
        end = session.outbox().ended() => end,
        end = read(&session, &heard, &pings, &mut stream, &mut farewell) => end,
        end = write(&session, timing) => end,
        end = silence(&session, &heard, &pings, timing.silence_max) => end,
    };
    let outbox = session.close(&end);
    let Some(Line { stream: mut writer, mut batch }) = outbox.disconnect() else { return };
    let goodbye = async {
        if !matches!(end, SocketEnd::Refused { .. } | SocketEnd::Shutdown) {
            batch.cut();
        }
        loop {
            let more = matches!(end, SocketEnd::Refused { .. } | SocketEnd::Shutdown) && batch.gather(|| outbox.pop());
            if !more && batch.is_empty() {
                break;
            }
            outbox.written(poll_fn(|cx| batch.poll_write(cx, &mut writer)).await?);
        }
        close(&mut stream, &mut writer, &frames::close(end.close_frame().or(farewell).as_ref())).await
    };
    if !matches!(end, SocketEnd::Lost | SocketEnd::Silent) {
        // Ok or not, nothing is left to be done: the stream closes when it is dropped.
        let _ = timeout(timing.goodbye, goodbye).await;
    }
}

/// One message after the other, and a turn for everybody else between two.
async fn read<IO: AsyncRead + Unpin>(
    session: &Session,
    heard: &Heard,
    pings: &Notify,
    stream: &mut WebSocketStream<ReadHalf<IO>>,
    farewell: &mut Option<CloseFrame>,
) -> SocketEnd {
    loop {
        if session.outbox().is_behind() {
            session.outbox().caught_up().await;
            heard.touch();
        }
        // Together with its frames.
        let mut taken = 0;
        let message = poll_fn(|cx| {
            let polled = stream.poll_next_unpin(cx);
            taken += heard.take_bytes();
            session.outbox().reading(if polled.is_ready() { 0 } else { taken });
            session.look_at_budget();
            match polled {
                Poll::Pending if taken > MESSAGE_WIRE_BYTES_MAX => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
                Poll::Ready(message) => Poll::Ready(Some(message)),
            }
        });
        let Some(message) = message.await else {
            return SocketEnd::Refused { code: 1008, reason: "frames without end and no message".to_owned() };
        };
        let own = message.as_ref().and_then(|message| message.as_ref().ok()).map_or(0, Message::len);
        if taken > own + FREE_BYTES_PER_MESSAGE {
            session.handle_overhead(taken - own);
        }
        match message {
            Some(Ok(Message::Text(text))) => {
                session.handle_text(&text);
                if session.pings_regularly() {
                    pings.notify_one();
                }
            }
            Some(Ok(Message::Binary(data))) => session.handle_binary(data.len()),
            Some(Ok(Message::Ping(data))) => {
                session.handle_control(data.len());
                session.outbox().answer_ping(data);
            }
            Some(Ok(Message::Pong(data))) => session.handle_control(data.len()),
            Some(Ok(Message::Frame(_))) => {}
            Some(Ok(Message::Close(frame))) => {
                // RFC 6455 section 5.5.1: answered with the code it came with.
                *farewell = frame.map(|frame| CloseFrame { code: frame.code, reason: "".into() });
                return SocketEnd::Left;
            }
            Some(Err(Error::Capacity(_))) => return SocketEnd::TooLong,
            Some(Err(Error::Utf8(_))) => return SocketEnd::NotUtf8,
            Some(Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake))) => {
                return SocketEnd::Lost;
            }
            Some(Err(Error::Protocol(_))) => return SocketEnd::Protocol,
            Some(Err(_)) | None => return SocketEnd::Lost,
        }
        tokio::task::yield_now().await;
    }
}

/// What the socket does not take at once, pings and pongs.
async fn write(session: &Session, timing: Timing) -> SocketEnd {
    let outbox = session.outbox();
    let mut ping = interval(timing.ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.reset();
    loop {
        tokio::select! {
            biased;
            // A client that reads slowly is asked for a sign of life as well.
            _ = ping.tick() => outbox.push(SocketFrame::Ping, None),
            () = outbox.filled() => {}
        }
        match timeout(timing.silence_max, poll_fn(|cx| outbox.poll_write(cx))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return broken(timing).await,
            Err(_) => return SocketEnd::TooSlow,
        }
    }
}

/// Nothing can be written any more. The reader knows the reason better, if it reads: it finds the same end. A reader
/// that waits for the client to catch up would wait for ever.
async fn broken(timing: Timing) -> SocketEnd {
    sleep(timing.goodbye).await;
    SocketEnd::Lost
}

/// A client that is not read from, because it does not take what it is sent, is not silent: `write` ends it. One that
/// pings regularly is asked for a sign of life and ended much sooner than others.
async fn silence(session: &Session, heard: &Heard, pings: &Notify, silence_max: Duration) -> SocketEnd {
    let mut watch = SignOfLife::default();
    loop {
        if session.outbox().is_behind() {
            heard.touch();
        }
        let silence = heard.silence();
        if silence >= silence_max {
            return SocketEnd::Silent;
        }
        let mut next = (silence_max - silence).max(silence_max / 16);
        if session.pings_regularly() {
            match watch.look(heard.now(), heard.last()) {
                Vigil::Fine(wait) => next = next.min(wait),
                Vigil::Ask(wait) => {
                    session.outbox().push(SocketFrame::Ping, None);
                    next = next.min(wait);
                }
                Vigil::Broken => return SocketEnd::Silent,
            }
        }
        // The first regular ping begins the watch.
        let _ = timeout(next, pings.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::{SOCKET_QUEUE_BYTES_MAX, SOCKET_QUEUE_PAUSE_BYTES};
    use crate::server::control::Control;
    use crate::server::entry::Credential;
    use crate::server::metrics;
    use crate::signal::fixture::settings;
    use crate::signal::{Hub, Origins};

    struct Nowhere;

    impl crate::server::Tower for Nowhere {
        fn send(&self, _: crate::base::id::ShardId, _: crate::shard::command::Command) {}

        fn load_permille(&self, _: crate::base::id::ShardId) -> u32 {
            0
        }
    }

    /// A client that is sent `texts` of 16 KiB, reads none and, if it `vanishes`, closes its end; returns /metrics
    /// after that.
    fn page_after(texts: usize, vanishes: bool) -> (Rc<Control>, String) {
        let control =
            Rc::new(Control::new(Hub::new(settings()), vec![], Box::new(Nowhere), Origins::default(), None, None));
        let timing = Timing { goodbye: Duration::from_millis(50), ..Timing::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let page = runtime.block_on(async {
            let names = Credential::Names { user: "anna".to_owned(), channel: "room".to_owned() };
            let Ok((session, _)) = control.enter([192, 0, 2, 1].into(), &names) else { panic!("the hub is empty") };
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let outbox = session.outbox().clone();
            let flood = async {
                // One text each turn, so that the writer is in the middle of one when the bound is met.
                for _ in 0..texts {
                    outbox.push(SocketFrame::Text("x".repeat(16_384).into()), None);
                    tokio::task::yield_now().await;
                }
                // It asks for more, as the reader's last message; it is not read from after that.
                theirs.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.expect("there is room");
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                (!vanishes).then_some(theirs)
            };
            let socket = OpenSocket::new(ours, control.awake.clone()).await;
            tokio::join!(flood, serve(socket, session, timing));
            String::from_utf8_lossy(&metrics::page(&control).await).into_owned()
        });
        (control, page)
    }

    #[test]
    fn who_reads_nothing_is_let_go_with_all_that_waits() {
        let (control, page) = page_after(SOCKET_QUEUE_BYTES_MAX / 10_000, false);
        assert_eq!((control.sockets.len(), control.counts().peers), (0, 0));
        assert!(page.contains("weirgate_sockets_closed_total{why=\"reads-too-slowly\"} 1"), "{page}");
    }

    #[test]
    fn who_vanishes_while_it_is_not_read_from_is_let_go() {
        let (control, page) = page_after(2 * SOCKET_QUEUE_PAUSE_BYTES / 16_384, true);
        assert_eq!((control.sockets.len(), control.counts().peers), (0, 0));
        assert!(page.contains("weirgate_sockets_closed_total{why=\"lost\"} 1"), "{page}");
    }
}
