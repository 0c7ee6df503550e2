//! The control edge's own counters; [`super::metrics`] shows them.

use std::cell::Cell;
use std::sync::Arc;

use super::end::SocketEnd;
use super::own_words::OwnAnswers;
use super::refusal::OpenRefusal;
use super::tls::HandshakeFault;

/// Every status this edge answers with.
pub(super) const STATUS_CODES: [u16; 18] =
    [101, 200, 204, 308, 400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 426, 429, 431, 503];

#[derive(Default)]
pub(super) struct Counters {
    pub(super) opened: Cell<u64>,
    pub(super) closed: [Cell<u64>; SocketEnd::NAMES.len()],
    pub(super) messages_sent: Cell<u64>,
    pub(super) responses: [Cell<u64>; STATUS_CODES.len()],
    pub(super) connections_refused: Cell<u64>,
    pub(super) origins_refused: Cell<u64>,
    /// In the order of [`OpenRefusal::CODES`].
    pub(super) entries_refused: [Cell<u64>; OpenRefusal::CODES.len()],
    pub(super) entries_evicted: Cell<u64>,
    pub(super) connections_evicted: Cell<u64>,
    pub(super) accepts_failed: Cell<u64>,
    pub(super) handshakes: Cell<u64>,
    pub(super) handshakes_failed: [Cell<u64>; HandshakeFault::NAMES.len()],
    pub(super) own_answers: Arc<OwnAnswers>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get().wrapping_add(1));
}

impl Counters {
    pub(super) fn socket_opened(&self) {
        count(&self.opened);
    }

    pub(super) fn socket_closed(&self, end: &SocketEnd) {
        count(&self.closed[end.index()]);
    }

    pub(super) fn message_sent(&self) {
        count(&self.messages_sent);
    }

    pub(super) fn responded(&self, status: u16) {
        if let Some(place) = STATUS_CODES.iter().position(|code| *code == status) {
            count(&self.responses[place]);
        }
    }

    pub(super) fn connection_refused(&self) {
        count(&self.connections_refused);
    }

    pub(super) fn origin_refused(&self) {
        count(&self.origins_refused);
    }

    pub(super) fn entry_refused(&self, refusal: &OpenRefusal) {
        if let Some(place) = OpenRefusal::CODES.iter().position(|code| *code == refusal.code()) {
            count(&self.entries_refused[place]);
        }
    }

    pub(super) fn entries_evicted(&self, number: u64) {
        self.entries_evicted.set(self.entries_evicted.get().wrapping_add(number));
    }

    pub(super) fn connections_evicted(&self, number: u64) {
        self.connections_evicted.set(self.connections_evicted.get().wrapping_add(number));
    }

    pub(super) fn accept_failed(&self) {
        count(&self.accepts_failed);
    }

    pub(super) fn handshake_done(&self) {
        count(&self.handshakes);
    }

    pub(super) fn handshake_failed(&self, fault: &HandshakeFault) {
        count(&self.handshakes_failed[fault.index()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_and_each_end_counts_in_its_own_place() {
        let counters = Counters::default();
        STATUS_CODES.iter().for_each(|status| counters.responded(*status));
        counters.responded(404);
        let responses = counters.responses.each_ref().map(Cell::get);
        assert_eq!(responses, STATUS_CODES.map(|status| if status == 404 { 2 } else { 1 }));
        counters.socket_closed(&SocketEnd::Refused { code: 1_008, reason: "full".into() });
        counters.socket_closed(&SocketEnd::Silent);
        let named = SocketEnd::NAMES.iter().zip(&counters.closed).filter(|(_, count)| count.get() > 0);
        assert_eq!(named.map(|(name, _)| *name).collect::<Vec<_>>(), ["silent", "refused"]);
    }

    #[test]
    fn a_status_that_this_edge_never_answers_with_counts_nowhere() {
        let counters = Counters::default();
        counters.responded(418);
        assert!(counters.responses.iter().all(|count| count.get() == 0));
    }
}
