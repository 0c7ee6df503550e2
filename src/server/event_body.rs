//! The body of the event stream: server-sent events, as the HTML standard has them (section 9.2). Each is one line of
//! JSON with its id and type. A comment from time to time shows that the stream lives.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use serde_json::json;
use tokio::time::{Sleep, sleep, sleep_until};

use super::clock;
use super::event_log::{Ear, NextEvent};
use super::streaming::Streaming;
use crate::base::time::Instant;

pub(super) const CONTENT_TYPE: &str = "text/event-stream";

/// Bytes of one piece, after which others have a turn.
const PIECE: usize = 16 * 1024;
/// The interval of comments, below the patience of proxies.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// Entries of other channels that one turn passes over.
const PASSED_OVER_MAX: usize = 512;

pub(super) struct EventBody {
    ear: Ear,
    /// None: all of them.
    channel: Option<String>,
    comment: Pin<Box<Sleep>>,
    /// The end of the token; None: there is none.
    until: Option<Pin<Box<Sleep>>>,
    gave_way: bool,
    begun: bool,
    over: bool,
}

impl EventBody {
    pub(super) fn new(ear: Ear, channel: Option<String>, until: Option<Instant>) -> EventBody {
        let comment = Box::pin(sleep(COMMENT_EVERY));
        let until = until.map(|until| Box::pin(sleep_until(clock::at(until))));
        EventBody { ear, channel, comment, until, gave_way: false, begun: false, over: false }
    }

    pub(super) fn carried_by(&self, connection: Rc<Streaming>) {
        connection.begin();
        self.ear.carried_by(connection);
    }

    /// As much as there is for one piece.
    fn gather(&mut self, cx: &mut Context<'_>) -> String {
        let mut text = String::new();
        if !std::mem::replace(&mut self.begun, true) {
            // The place that a client without any event goes on from.
            text.push_str(": events follow\n");
            if let Some(id) = self.ear.last_id() {
                text.push_str(&format!("id: {id}\n"));
            }
            text.push('\n');
        }
        let mut passed_over = 0;
        while text.len() < PIECE && passed_over < PASSED_OVER_MAX && !self.over {
            match self.ear.next(cx) {
                NextEvent::Event(event) => {
                    if self.channel.is_some() && event.channel.as_deref() != self.channel.as_deref() {
                        passed_over += 1;
                        continue;
                    }
                    let id = self.ear.last_id().unwrap_or_default();
                    text.push_str(&format!("id: {id}\nevent: {}\ndata: {}\n\n", event.kind, event.text));
                }
                NextEvent::Missed(missed) => {
                    text.push_str(&format!("event: missed\ndata: {}\n\n", json!({ "missed": missed })));
                }
                NextEvent::Over => self.over = true,
                NextEvent::Wait => break,
            }
        }
        if text.is_empty() && passed_over == PASSED_OVER_MAX {
            cx.waker().wake_by_ref();
        }
        text
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let ended = self.until.as_mut().is_some_and(|until| until.as_mut().poll(cx).is_ready());
        if self.over || ended {
            self.over = true;
            return Poll::Ready(None);
        }
        if !std::mem::replace(&mut self.gave_way, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut text = self.gather(cx);
        if text.is_empty() && self.over {
            return Poll::Ready(None);
        }
        if text.is_empty() && self.comment.as_mut().poll(cx).is_ready() {
            text.push_str(": \n\n");
        }
        if text.is_empty() {
            return Poll::Pending;
        }
        self.gave_way = false;
        let next = tokio::time::Instant::now() + COMMENT_EVERY;
        self.comment.as_mut().reset(next);
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}
