//! What a client that asks for a WebSocket finds: its peer, the wait for its first message, or a refusal.

use std::net::IpAddr;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connections::Place;
use super::control::{Control, Session};
use super::entry::{Credential, Offer, Promise};
use super::first_message;
use super::refusal::OpenRefusal;
use super::tasks::{Running, Task};
use super::timing::Timing;
use super::websocket::{self, OpenSocket};
use crate::signal::OpenError;

pub(super) enum Reception {
    Open(Session),
    /// The credential is to come.
    Ajar(Promise, Place),
    /// The socket is opened to say so.
    Closed(OpenRefusal, Place),
}

impl Reception {
    /// Err: it is said in plain HTTP.
    pub(super) fn open(control: &Rc<Control>, remote: IpAddr, offer: Offer) -> Result<Reception, OpenRefusal> {
        let credential = match offer {
            Offer::Complete(credential) => credential,
            Offer::Promised(promise) => {
                control.knock(remote)?;
                return Ok(Reception::Ajar(promise, place(control, remote)?));
            }
        };
        if !matches!(credential, Credential::Names { .. }) {
            control.knock(remote)?;
        }
        match control.enter(remote, &credential) {
            Ok((session, _)) => Ok(Reception::Open(session)),
            Err(refusal) if refusal.is_told_on_a_socket() => Ok(Reception::Closed(refusal, place(control, remote)?)),
            Err(refusal) => Err(refusal),
        }
    }

    pub(super) fn task(&self) -> Task {
        match self {
            Reception::Open(_) => Task::Socket,
            Reception::Ajar(..) | Reception::Closed(..) => Task::Entry,
        }
    }

    pub(super) async fn serve<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
        self,
        socket: OpenSocket<IO>,
        control: &Rc<Control>,
        remote: IpAddr,
        timing: Timing,
        mut running: Running,
    ) {
        let entered = match self {
            Reception::Open(session) => Some((socket, session)),
            Reception::Ajar(promise, place) => {
                first_message::wait(socket, promise, control, place, remote, timing).await
            }
            Reception::Closed(refusal, place) => {
                first_message::turn_away(socket, &refusal, control, place, timing).await;
                None
            }
        };
        if let Some((socket, session)) = entered {
            running.becomes(Task::Socket);
            websocket::serve(socket, session, timing).await;
        }
    }
}

/// Among the sockets without a peer. The oldest of them gives way, so that there always is one.
fn place(control: &Control, remote: IpAddr) -> Result<Place, OpenRefusal> {
    let (place, evicted) = control.entering.admit(remote);
    control.counters.entries_evicted(evicted);
    place.ok_or(OpenRefusal::Hub(OpenError::SocketsMax))
}
