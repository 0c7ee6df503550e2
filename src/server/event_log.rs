//! The entries of the journal for the listeners of the event stream: kept once for all, up to a bound, each under a
//! number. A listener is a place among them. One that falls behind what is kept is told how much it missed, and one that
//! missed too much is let go.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::streaming::Streaming;
use crate::base::limits::{
    EVENT_LISTENERS_MAX, EVENTS_KEPT_BYTES_MAX, EVENTS_KEPT_FOR, EVENTS_KEPT_MAX, EVENTS_MISSED_MAX,
};
use crate::base::time::Instant;

/// An entry as listeners get it.
#[derive(Clone)]
pub(super) struct LoggedEvent {
    pub(super) kind: &'static str,
    pub(super) channel: Option<Arc<str>>,
    /// One line of JSON.
    pub(super) text: Arc<str>,
}

/// What a listener gets next.
pub(super) enum NextEvent {
    /// Its number is the last before the listener's place.
    Event(LoggedEvent),
    /// So many are no longer kept; None: nobody knows how many.
    Missed(Option<u64>),
    /// It is let go.
    Over,
    /// Nothing for now.
    Wait,
}

struct Listener {
    /// The number of the event that it gets next.
    place: u64,
    /// A reconnection that this log knows nothing of.
    lost: bool,
    missed: u64,
    over: bool,
    /// A token lets it listen.
    guest: bool,
    waker: Option<Waker>,
    connection: Option<Rc<Streaming>>,
}

struct Log {
    /// Tells this log's numbers from those of an earlier one.
    name: u64,
    kept: VecDeque<LoggedEvent>,
    bytes: usize,
    /// The number that the next event gets.
    next: u64,
    listeners: BTreeMap<u64, Listener>,
    last_listener: u64,
    /// When nobody listened any more, where something is kept still.
    deserted: Option<Instant>,
}

pub(super) struct EventLog(RefCell<Log>);

impl EventLog {
    /// `name`: another one in each process.
    pub(super) fn new(name: u64) -> EventLog {
        EventLog(RefCell::new(Log {
            name,
            kept: VecDeque::new(),
            bytes: 0,
            next: 0,
            listeners: BTreeMap::new(),
            last_listener: 0,
            deserted: None,
        }))
    }

    /// Whether events are wanted.
    pub(super) fn is_kept(&self) -> bool {
        let log = self.0.borrow();
        !log.listeners.is_empty() || log.deserted.is_some()
    }

    pub(super) fn listeners(&self) -> usize {
        self.0.borrow().listeners.len()
    }

    pub(super) fn push(&self, event: LoggedEvent) {
        self.0.borrow_mut().push(event);
    }

    /// A listener, from the event behind this one on (`Last-Event-ID`), or from now on. None: there are too many.
    pub(super) fn listen(self: &Rc<Self>, last: Option<&str>, guest: bool) -> Option<Ear> {
        let mut log = self.0.borrow_mut();
        if log.listeners.len() >= EVENT_LISTENERS_MAX {
            return None;
        }
        let known = last.and_then(|last| log.number(last));
        let lost = last.is_some() && known.is_none();
        let place = known.map_or(log.next, |known| known + 1);
        log.last_listener += 1;
        log.deserted = None;
        let id = log.last_listener;
        let listener = Listener { place, lost, missed: 0, over: false, guest, waker: None, connection: None };
        log.listeners.insert(id, listener);
        Some(Ear { log: self.clone(), id })
    }

    /// Forgets what nobody has listened to for a while. True: it did so now.
    pub(super) fn expire(&self, now: Instant) -> bool {
        let mut log = self.0.borrow_mut();
        let due = log.deserted.is_some_and(|deserted| now.since(deserted) >= EVENTS_KEPT_FOR);
        if due {
            (log.deserted, log.bytes) = (None, 0);
            log.kept = VecDeque::new();
            // What happens from now on is not counted.
            log.name = log.name.wrapping_add(1);
        }
        due
    }

    /// Lets all listeners go, after what is kept.
    pub(super) fn end(&self) {
        self.let_go(|_| true);
    }

    /// Lets those go whose token may have been revoked; they come back if it was another.
    pub(super) fn let_guests_go(&self) {
        self.let_go(|listener| listener.guest);
    }

    fn let_go(&self, wanted: impl Fn(&Listener) -> bool) {
        for listener in self.0.borrow_mut().listeners.values_mut().filter(|listener| wanted(listener)) {
            listener.over = true;
            listener.waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Log {
    fn push(&mut self, event: LoggedEvent) {
        self.bytes += event.text.len();
        self.kept.push_back(event);
        self.next += 1;
        while self.kept.len() > EVENTS_KEPT_MAX || self.bytes > EVENTS_KEPT_BYTES_MAX {
            self.bytes -= self.kept.pop_front().map_or(0, |event| event.text.len());
        }
        for listener in self.listeners.values_mut() {
            if !listener.over && self.next - listener.place > EVENTS_MISSED_MAX {
                listener.over = true;
                listener.connection.iter().for_each(|connection| connection.cut());
            }
            listener.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    fn first(&self) -> u64 {
        self.next - self.kept.len() as u64
    }

    /// The number that an id means, if it is of this log.
    fn number(&self, id: &str) -> Option<u64> {
        let (name, number) = id.split_once('-')?;
        let name = u64::from_str_radix(name, 16).ok()?;
        let number: u64 = number.parse().ok()?;
        (name == self.name && number < self.next).then_some(number)
    }
}

/// A listener's end of the log. Dropping it ends the listening.
pub(super) struct Ear {
    log: Rc<EventLog>,
    id: u64,
}

impl Ear {
    pub(super) fn carried_by(&self, connection: Rc<Streaming>) {
        if let Some(listener) = self.log.0.borrow_mut().listeners.get_mut(&self.id) {
            listener.connection = Some(connection);
        }
    }

    /// The id of the last event before this listener's place, from which it may go on.
    pub(super) fn last_id(&self) -> Option<String> {
        let log = self.log.0.borrow();
        let last = log.listeners.get(&self.id)?.place.checked_sub(1)?;
        Some(format!("{:x}-{last}", log.name))
    }

    pub(super) fn next(&self, cx: &mut Context<'_>) -> NextEvent {
        let mut log = self.log.0.borrow_mut();
        let (first, next) = (log.first(), log.next);
        let Some(listener) = log.listeners.get_mut(&self.id) else { return NextEvent::Over };
        if std::mem::take(&mut listener.lost) {
            return NextEvent::Missed(None);
        }
        if listener.missed > EVENTS_MISSED_MAX || next - listener.place > EVENTS_MISSED_MAX {
            return NextEvent::Over;
        }
        if listener.place < first {
            let missed = first - listener.place;
            (listener.place, listener.missed) = (first, listener.missed + missed);
            return NextEvent::Missed(Some(missed));
        }
        if listener.place == next {
            listener.waker = Some(cx.waker().clone());
            return if listener.over { NextEvent::Over } else { NextEvent::Wait };
        }
        let place = listener.place - first;
        listener.place += 1;
        NextEvent::Event(log.kept[place as usize].clone())
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut log = self.log.0.borrow_mut();
        log.listeners.remove(&self.id);
        if log.listeners.is_empty() {
            log.deserted = Some(super::clock::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> LoggedEvent {
        LoggedEvent { kind: "x", channel: None, text: n.to_string().into() }
    }

    /// What it reads until it waits.
    fn read(ear: &Ear) -> Vec<String> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = Vec::new();
        loop {
            match ear.next(&mut cx) {
                NextEvent::Event(event) => read.push(event.text.to_string()),
                NextEvent::Missed(missed) => read.push(format!("missed {missed:?}")),
                NextEvent::Over => read.push("over".to_owned()),
                NextEvent::Wait => return read,
            }
            if read.last().is_some_and(|last| last == "over") {
                return read;
            }
        }
    }

    #[test]
    fn who_comes_back_goes_on_behind_the_last_that_it_heard() {
        let log = Rc::new(EventLog::new(0xabc));
        let ear = log.listen(None, false).unwrap();
        (0..3).for_each(|n| log.push(event(n)));
        assert_eq!((read(&ear), ear.last_id().as_deref()), (vec!["0".into(), "1".into(), "2".into()], Some("abc-2")));
        drop(ear);
        log.push(event(3));
        let ear = log.listen(Some("abc-1"), false).unwrap();
        assert_eq!(read(&ear), ["2", "3"]);
        for stranger in ["abd-1", "abc-4", "abc", "-", ""] {
            assert_eq!(read(&log.listen(Some(stranger), false).unwrap()), ["missed None"], "{stranger}");
        }
        drop(ear);
        assert!(log.is_kept() && !log.expire(super::super::clock::now()));
        assert!(log.expire(super::super::clock::now() + EVENTS_KEPT_FOR) && !log.is_kept());
        assert_eq!(
            read(&log.listen(Some("abc-1"), false).unwrap()),
            ["missed None"],
            "what is forgotten is not made up"
        );
    }

    #[test]
    fn who_is_slow_is_told_how_much_it_missed_and_let_go_at_a_bound() {
        let log = Rc::new(EventLog::new(1));
        let (slow, dead, connection) =
            (log.listen(None, false).unwrap(), log.listen(None, false).unwrap(), Rc::<Streaming>::default());
        dead.carried_by(connection.clone());
        let kept = EVENTS_KEPT_MAX as u64;
        (0..kept + 10).for_each(|n| log.push(event(n)));
        let heard = read(&slow);
        assert_eq!((&*heard[0], &*heard[1], heard.len() as u64), ("missed Some(10)", "10", kept + 1));
        (0..EVENTS_MISSED_MAX - kept - 10).for_each(|n| log.push(event(n)));
        let cut = || {
            let mut cx = Context::from_waker(Waker::noop());
            std::pin::pin!(connection.has_been_cut()).poll(&mut cx).is_ready()
        };
        assert!(!cut());
        log.push(event(0));
        assert!(cut(), "it has read nothing");
        assert_eq!(read(&dead), ["over"]);
        assert!(log.0.borrow().kept.len() == EVENTS_KEPT_MAX && !read(&slow).contains(&"over".to_owned()));
    }

    #[test]
    fn bytes_and_listeners_are_bounded() {
        let log = Rc::new(EventLog::new(1));
        let ears: Vec<Ear> = (0..EVENT_LISTENERS_MAX).map(|_| log.listen(None, false).unwrap()).collect();
        assert!(log.listen(None, false).is_none());
        let long: Arc<str> = "x".repeat(EVENTS_KEPT_BYTES_MAX / 8).into();
        (0..100).for_each(|_| log.push(LoggedEvent { text: long.clone(), ..event(0) }));
        assert!(log.0.borrow().bytes <= EVENTS_KEPT_BYTES_MAX && log.0.borrow().kept.len() == 8);
        log.end();
        assert!(ears.iter().all(|ear| read(ear).last().is_some_and(|last| last == "over")));
    }
}
