//! A DTLS session after its handshake. Media has its own keys, so little is left to do: carry application data if anybody
//! wants any, repeat our last flight for a server's client that missed it, and close. How records are protected is the
//! business of the [`RecordLayer`] that the handshake left. Called by `session` owners, on whichever thread they are.

use super::library::{Opened, RecordLayer};
use super::record::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, DtlsRecord, HANDSHAKE};
use super::session::{ClosedBy, SecureOutput, SecureSession, Side};
use crate::base::limits::FLIGHT_RESENDS_MAX;
use crate::base::time::{Duration, Instant};
use crate::secure::dropped::SecureDrop;
use std::collections::VecDeque;

pub struct Settled {
    records: Box<dyn RecordLayer>,
    /// Empty for a client, whose last flight has been answered.
    last_flight: Vec<Vec<u8>>,
    /// Between two times that it is sent again.
    pause: Duration,
    resends: u32,
    resent_at: Option<Instant>,
    carries_application: bool,
    closed: bool,
    outputs: VecDeque<SecureOutput>,
}

impl Settled {
    pub(super) fn new(
        side: Side,
        records: Box<dyn RecordLayer>,
        last_flight: Vec<Vec<u8>>,
        pause: Duration,
    ) -> Settled {
        Settled {
            records,
            last_flight: if side == Side::Server { last_flight } else { Vec::new() },
            pause,
            resends: 0,
            resent_at: None,
            carries_application: false,
            closed: false,
            outputs: VecDeque::new(),
        }
    }

    fn record(&mut self, now: Instant, record: &DtlsRecord<'_>) -> Result<(), SecureDrop> {
        let wanted = match (record.epoch, record.kind) {
            (0, HANDSHAKE | CHANGE_CIPHER_SPEC) => return Err(SecureDrop::DtlsOutOfPlace),
            // Anybody on the path may have made it (RFC 6347 section 4.1.2.7).
            (0, _) => return Err(SecureDrop::DtlsPlaintext),
            (_, ALERT) => true,
            (_, HANDSHAKE) => !self.last_flight.is_empty(),
            (_, APPLICATION_DATA) => self.carries_application,
            _ => false,
        };
        if !wanted {
            return Err(SecureDrop::DtlsOutOfPlace);
        }
        match self.records.open(now, record)? {
            Opened::Application(data) => self.outputs.push_back(SecureOutput::Application(data)),
            Opened::FlightRepeated => return self.resend(now),
            Opened::Closed => {
                // RFC 5246 section 7.2.1: answered in kind.
                self.close();
                self.outputs.push_back(SecureOutput::Closed(ClosedBy::Peer));
            }
            Opened::Nothing => {}
        }
        Ok(())
    }

    fn resend(&mut self, now: Instant) -> Result<(), SecureDrop> {
        let too_soon = self.resent_at.is_some_and(|at| now.since(at) < self.pause);
        if too_soon || self.resends >= FLIGHT_RESENDS_MAX {
            return Err(SecureDrop::DtlsRepeatLimit);
        }
        self.resends += 1;
        self.resent_at = Some(now);
        self.outputs.extend(self.last_flight.iter().cloned().map(SecureOutput::Transmit));
        Ok(())
    }
}

impl SecureSession for Settled {
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), SecureDrop> {
        let mut result = Ok(());
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.closed {
                return result.and(Err(SecureDrop::DtlsClosed));
            }
            let Some((record, behind)) = DtlsRecord::split(rest) else {
                return result.and(Err(SecureDrop::DtlsMalformed));
            };
            rest = behind;
            result = result.and(self.record(now, &record));
        }
        result
    }

    fn poll(&mut self) -> Option<SecureOutput> {
        self.outputs.pop_front()
    }

    fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.outputs.extend(self.records.farewell().map(SecureOutput::Transmit));
        }
    }

    fn send(&mut self, data: &[u8]) -> bool {
        if self.closed {
            return false;
        }
        let sealed = self.records.seal(data);
        let fits = sealed.is_some();
        self.outputs.extend(sealed.map(SecureOutput::Transmit));
        fits
    }

    fn accept_application(&mut self) {
        self.carries_application = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::gcm_records::tests as gcm;
    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    fn pair() -> [Settled; 2] {
        let [server, client] = gcm::pair();
        [
            Settled::new(Side::Server, Box::new(server), vec![vec![7; 60]], PAUSE),
            Settled::new(Side::Client, Box::new(client), vec![vec![8; 60]], PAUSE),
        ]
    }

    fn said(session: &mut Settled) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| match session.poll()? {
            SecureOutput::Transmit(datagram) => Some(datagram),
            other => panic!("{other:?}"),
        })
        .collect()
    }

    #[test]
    fn a_close_is_heard_answered_once_and_final() {
        let now = Instant::ZERO;
        for closer in 0..2 {
            let mut ends = pair();
            ends[closer].close();
            let farewell = said(&mut ends[closer]);
            assert_eq!(farewell.len(), 1);
            let other = &mut ends[1 - closer];
            let mut forged = farewell[0].clone();
            for at in [3, 5, 13, 21, 38] {
                forged[at] ^= 1;
                assert!(other.handle_datagram(now, &forged).is_err(), "byte {at}");
                forged[at] ^= 1;
            }
            assert!(other.poll().is_none());
            assert_eq!(other.handle_datagram(now, &forged), Ok(()));
            assert!(matches!(other.poll(), Some(SecureOutput::Transmit(_))));
            assert!(matches!(other.poll(), Some(SecureOutput::Closed(ClosedBy::Peer))));
            assert_eq!(other.handle_datagram(now, &forged), Err(SecureDrop::DtlsClosed));
            other.close();
            assert!(other.poll().is_none() && !other.send(b"more"));
        }
    }

    #[test]
    fn application_data_passes_once_it_is_wanted() {
        let mut ends = pair();
        for from in 0..2 {
            assert!(ends[from].send(b"unasked") && ends[from].send(b"data"));
            let [unasked, data] = said(&mut ends[from]).try_into().unwrap();
            let other = &mut ends[1 - from];
            assert_eq!(other.handle_datagram(Instant::ZERO, &unasked), Err(SecureDrop::DtlsOutOfPlace));
            other.accept_application();
            assert_eq!(other.handle_datagram(Instant::ZERO, &data), Ok(()));
            assert!(matches!(other.poll(), Some(SecureOutput::Application(opened)) if opened == b"data"));
            assert_eq!(other.handle_datagram(Instant::ZERO, &data), Err(SecureDrop::DtlsOutOfPlace), "a replay");
        }
        assert!(!ends[0].send(&[0; 3_000]), "no datagram has room for it");
    }

    fn record(kind: u8, epoch: u8, len: usize) -> Vec<u8> {
        let header = [kind, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 9, 0, len as u8];
        [&header[..], &vec![7; len]].concat()
    }

    #[test]
    fn only_a_finished_of_the_client_s_own_is_answered_and_each_once() {
        let [mut server, _] = pair();
        let [_, mut client] = gcm::pair();
        let now = |step: u32| Instant::ZERO + PAUSE * step;
        for step in 0..4 * FLIGHT_RESENDS_MAX {
            let forged = record(HANDSHAKE, 1, 48);
            assert_eq!(server.handle_datagram(now(step), &forged), Err(SecureDrop::DtlsForged));
        }
        assert!(said(&mut server).is_empty());
        let genuine = gcm::finished(&mut client, 3);
        assert_eq!(server.handle_datagram(now(90), &genuine), Ok(()));
        assert_eq!(said(&mut server), [vec![7; 60]]);
        for step in 91..200 {
            assert_eq!(server.handle_datagram(now(step), &genuine), Err(SecureDrop::DtlsOutOfPlace), "overheard");
        }
        assert!(said(&mut server).is_empty());
        assert_eq!(server.handle_datagram(now(200), &gcm::finished(&mut client, 4)), Ok(()));
    }

    #[test]
    fn a_server_repeats_its_last_flight_a_bounded_number_of_times() {
        let [mut server, mut client] = pair();
        let [mut servers, mut clients] = gcm::pair();
        let mut now = Instant::ZERO;
        let mut answers = 0;
        for number in 1..=4 * FLIGHT_RESENDS_MAX {
            now = now + PAUSE / 2;
            let result = server.handle_datagram(now, &gcm::finished(&mut clients, u64::from(number)));
            let sent = said(&mut server);
            assert_eq!(result.is_ok(), sent == [vec![7; 60]]);
            answers += u32::from(result.is_ok());
        }
        assert_eq!(answers, FLIGHT_RESENDS_MAX);
        let finished = gcm::finished(&mut servers, 1);
        assert_eq!(client.handle_datagram(now, &finished), Err(SecureDrop::DtlsOutOfPlace));
        assert!(client.poll().is_none());
    }

    #[test]
    fn everything_else_is_dropped_by_name() {
        for (kind, epoch, len, why) in [
            (ALERT, 1, 25, SecureDrop::DtlsOutOfPlace),
            (ALERT, 1, 26, SecureDrop::DtlsForged),
            (ALERT, 1, 27, SecureDrop::DtlsOutOfPlace),
            (ALERT, 0, 2, SecureDrop::DtlsPlaintext),
            (APPLICATION_DATA, 1, 30, SecureDrop::DtlsOutOfPlace),
            (APPLICATION_DATA, 0, 30, SecureDrop::DtlsPlaintext),
            (HANDSHAKE, 0, 30, SecureDrop::DtlsOutOfPlace),
            (CHANGE_CIPHER_SPEC, 0, 1, SecureDrop::DtlsOutOfPlace),
            (ALERT, 2, 26, SecureDrop::DtlsOutOfPlace),
        ] {
            for mut end in pair() {
                assert_eq!(end.handle_datagram(Instant::ZERO, &record(kind, epoch, len)), Err(why), "{kind} {epoch}");
                assert_eq!(end.handle_datagram(Instant::ZERO, &[kind]), Err(SecureDrop::DtlsMalformed));
                assert!(end.poll().is_none());
            }
        }
    }
}
