//! Sockets without a peer: those whose credential comes in their first message, and those that were opened only to be
//! told why they are turned away. They are bounded in number, bytes and time, and the oldest gives way to a new one.

use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Poll;

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;

use super::clock;
use super::connections::Place;
use super::control::{Control, Session};
use super::entry::{Credential, Promise};
use super::frames::SocketFrame;
use super::refusal::OpenRefusal;
use super::timing::Timing;
use super::websocket::OpenSocket;
use crate::base::limits::ENTRY_BYTES_MAX;
use crate::signal::{EntryMessage, OpenError};

/// How the wait for a first message ended.
enum Outcome {
    In(Session),
    Away(OpenRefusal),
    /// The client went, or made room.
    Gone,
}

fn unauthorized(why: &'static str) -> Outcome {
    Outcome::Away(OpenRefusal::Hub(OpenError::Unauthorized(why)))
}

/// Waits for the message, and gives the socket its peer or turns it away.
pub(super) async fn wait<IO: AsyncRead + AsyncWrite + Unpin>(
    mut socket: OpenSocket<IO>,
    promise: Promise,
    control: &Rc<Control>,
    place: Place,
    remote: IpAddr,
    timing: Timing,
) -> Option<(OpenSocket<IO>, Session)> {
    let outcome = tokio::select! {
        biased;
        () = control.stop.notified() => Outcome::Away(OpenRefusal::Stopping),
        () = place.evicted() => Outcome::Gone,
        outcome = timeout(timing.entry_wait, enter(&mut socket, promise, control, remote)) => {
            outcome.unwrap_or_else(|_| unauthorized("the first message, with the token, did not come in time"))
        }
    };
    match outcome {
        Outcome::In(session) => return Some((socket, session)),
        Outcome::Away(refusal) => turn_away(socket, &refusal, control, place, timing).await,
        Outcome::Gone => {}
    }
    None
}

/// Tells why, and closes.
pub(super) async fn turn_away<IO: AsyncRead + AsyncWrite + Unpin>(
    socket: OpenSocket<IO>,
    refusal: &OpenRefusal,
    control: &Control,
    place: Place,
    timing: Timing,
) {
    control.counters.entry_refused(refusal);
    let frame = CloseFrame { code: refusal.close_code().into(), reason: refusal.code().into() };
    let told = async {
        // Ok or not, nothing is left to be done.
        let _ = timeout(timing.goodbye, socket.part(&refusal.text(), &frame)).await;
    };
    tokio::select! {
        () = told => {}
        () = place.evicted() => {}
    }
}

async fn enter<IO: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut OpenSocket<IO>,
    promise: Promise,
    control: &Rc<Control>,
    remote: IpAddr,
) -> Outcome {
    let mut taken = 0;
    socket.heard.allow(ENTRY_BYTES_MAX + 1);
    loop {
        let message = poll_fn(|cx| {
            let polled = socket.stream.poll_next_unpin(cx);
            taken += socket.heard.take_bytes();
            match polled {
                Poll::Pending if socket.heard.is_spent() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
                Poll::Ready(message) => Poll::Ready(Some(message)),
            }
        });
        let text = match message.await {
            None => return unauthorized("the first message, with the token, is too long"),
            Some(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) if taken <= ENTRY_BYTES_MAX => {
                continue;
            }
            Some(Some(Ok(Message::Text(text)))) if text.len() <= ENTRY_BYTES_MAX => text,
            Some(Some(Ok(Message::Text(_)))) => return unauthorized("the first message, with the token, is too long"),
            Some(Some(Ok(Message::Close(_)) | Err(_)) | None) => return Outcome::Gone,
            Some(Some(Ok(_))) => return unauthorized("the first message must be a text that brings a token"),
        };
        socket.heard.allow(usize::MAX);
        return match (promise, EntryMessage::parse(&text)) {
            (Promise::Authenticate { channel }, Some(EntryMessage::Authenticate { token, tag })) => {
                let entered = control.enter(remote, &Credential::Token { token, channel });
                entered.map_or_else(Outcome::Away, |(session, expires)| {
                    let answer = tag.authenticated(clock::now(), expires);
                    session.outbox().push(SocketFrame::Text(answer.into()), None);
                    Outcome::In(session)
                })
            }
            (Promise::Resume, Some(EntryMessage::Resume { token, received })) => {
                let entered = control.enter(remote, &Credential::Resume { token, received });
                entered.map_or_else(Outcome::Away, |(session, _)| Outcome::In(session))
            }
            (Promise::Authenticate { .. }, _) => {
                unauthorized("the first message must be authenticate, with data.token")
            }
            (Promise::Resume, _) => unauthorized("the first message must be resume, with data.token"),
        };
    }
}
