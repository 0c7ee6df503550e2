//! The answers of HTTP: their body is text that is ready, or the event stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::event_body::EventBody;
use super::paced::Paced;
use super::streaming::Streaming;

pub(super) type HttpAnswer = Response<AnswerBody>;

pub(super) enum AnswerBody {
    Ready(Paced),
    Events(EventBody),
}

impl Default for AnswerBody {
    fn default() -> AnswerBody {
        AnswerBody::Ready(Paced::default())
    }
}

impl AnswerBody {
    /// Tells a stream the connection that carries it.
    pub(super) fn carried_by(&mut self, connection: &Rc<Streaming>) {
        if let AnswerBody::Events(body) = self {
            body.carried_by(connection.clone());
        }
    }
}

pub(super) fn with_body(status: StatusCode, mime: &'static str, body: impl Into<Bytes>) -> HttpAnswer {
    let mut answer = Response::new(AnswerBody::Ready(Paced::from(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(mime));
    answer
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            AnswerBody::Ready(body) => Pin::new(body).poll_frame(cx),
            AnswerBody::Events(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Ready(body) => body.is_end_stream(),
            AnswerBody::Events(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Ready(body) => body.size_hint(),
            AnswerBody::Events(_) => SizeHint::default(),
        }
    }
}
