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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::HTTP_IDLE_PER_ADDRESS_MAX;
    use crate::base::secret::Secret;
    use crate::signal::fixture::settings;
    use crate::signal::{Hub, Origins};

    struct Nowhere;

    impl crate::server::Tower for Nowhere {
        fn send(&self, _: crate::base::id::ShardId, _: crate::shard::command::Command) {}

        fn load_permille(&self, _: crate::base::id::ShardId) -> u32 {
            0
        }
    }

    fn control() -> Rc<Control> {
        Rc::new(Control::new(Hub::new(settings()), vec![], Box::new(Nowhere), Origins::default(), None))
    }

    fn forged() -> Offer {
        Offer::Complete(Credential::Token { token: Secret::new("a.b.c"), channel: "room".to_owned() })
    }

    #[test]
    fn a_flood_of_bad_tokens_is_charged_to_its_address_alone() {
        let (control, mallory) = (control(), [192, 0, 2, 1].into());
        let open = |remote, offer| Reception::open(&control, remote, offer);
        let told = (0..).take_while(|_| matches!(open(mallory, forged()), Ok(Reception::Closed(..)))).count();
        assert!((100..1_000).contains(&told), "{told} were looked at");
        let names = || Offer::Complete(Credential::Names { user: "anna".to_owned(), channel: "room".to_owned() });
        for offer in [forged(), names(), Offer::Promised(Promise::Resume)] {
            let refused = open(mallory, offer).err().expect("it has to wait");
            assert_eq!((refused.code(), refused.http_status()), ("rate-limited", 429));
        }
        assert!(matches!(open([192, 0, 2, 2].into(), names()), Ok(Reception::Open(_))));
    }

    #[test]
    fn those_who_wait_for_their_first_message_give_way_to_newer_ones_of_their_address() {
        let (control, mallory) = (control(), [192, 0, 2, 1].into());
        let open = |remote| match Reception::open(&control, remote, Offer::Promised(Promise::Resume)) {
            Ok(Reception::Ajar(_, place)) => place,
            _ => panic!("it waits"),
        };
        let other = open([192, 0, 2, 2].into());
        let places: Vec<Place> = (0..HTTP_IDLE_PER_ADDRESS_MAX + 3).map(|_| open(mallory)).collect();
        assert_eq!(control.counters.entries_evicted.get(), 3);
        drop((other, places));
    }
}
