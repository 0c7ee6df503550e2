//! The admin API over HTTP: who may ask, the body of a request, and the answers of [`crate::signal::admin`], which
//! decides everything else. Its work waits for its turn, so that calls have most of the thread.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;

use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, StatusCode};
use tokio::time::timeout;

use super::answer::{AnswerBody, HttpAnswer, with_body};
use super::browsers;
use super::control::Control;
use super::event_body::{self, EventBody};
use super::timing::Timing;
use crate::base::limits::ADMIN_BODY_BYTES_MAX;
use crate::base::time::Instant;
use crate::signal::admin::{AdminOutcome, Operation, Problem};

const JSON: &str = "application/json";
const DOCUMENT: &str = include_str!("../../docs/openapi.json");

/// Whether a path is the admin API's.
pub(super) fn is_here(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

/// On the listener that is for the operator's machines alone.
pub(super) async fn respond(
    control: &Rc<Control>,
    timing: Timing,
    request: Request<Incoming>,
) -> Result<HttpAnswer, Problem> {
    browsers::keep_out(request.headers(), &control.admin_hosts)?;
    carry_out(control, timing, request, None).await
}

/// On the public listener: to who brings a token for it, which no page has that was not given one.
pub(super) async fn respond_to_token(
    control: &Rc<Control>,
    timing: Timing,
    remote: IpAddr,
    request: Request<Incoming>,
) -> Result<HttpAnswer, Problem> {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|given| given.to_str().ok());
    // RFC 6750 section 2.1; the scheme's letters may be of any case (RFC 9110 section 11.1).
    let token =
        given.and_then(|given| given.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let until = control.admits_operator(remote, token.map(|(_, token)| token.trim()));
    let until = until.map_err(|refusal| Problem::new(refusal.http_status(), refusal.code(), refusal.message()))?;
    carry_out(control, timing, request, until).await
}

/// `until`: the end of the token; None: there is none.
async fn carry_out(
    control: &Rc<Control>,
    timing: Timing,
    request: Request<Incoming>,
    until: Option<Instant>,
) -> Result<HttpAnswer, Problem> {
    let (parts, body) = request.into_parts();
    let method = Operation::check(parts.method.as_str(), parts.uri.path())?;
    if method.has_body() {
        is_json(&parts.headers)?;
    }
    let late = || Problem::new(408, "body-late", "the body did not come in time");
    let body = timeout(timing.head_wait, read(&parts.headers, body)).await.map_err(|_| late())??;
    let operation = Operation::parse(parts.method.as_str(), parts.uri.path(), parts.uri.query(), &body)?;
    match operation {
        Operation::Document => Ok(with_body(StatusCode::OK, JSON, DOCUMENT)),
        Operation::Events { .. } if parts.method == Method::HEAD => {
            Ok(with_body(StatusCode::OK, event_body::CONTENT_TYPE, ""))
        }
        Operation::Events { channel } => events(control, &parts.headers, channel, until),
        operation => act(control, operation).await,
    }
}

async fn act(control: &Rc<Control>, operation: Operation) -> Result<HttpAnswer, Problem> {
    let outcome = control.duty.work(|| control.operate(&operation)).await?;
    let (mut answer, asks) = match outcome {
        AdminOutcome::Look { answer, asks } => (answer, asks),
        AdminOutcome::Done(answer) => (answer, Vec::new()),
        AdminOutcome::Ended => return Ok(nothing()),
        AdminOutcome::Emptying(channel) => {
            // It goes on even if the client does not wait for it.
            let control = control.clone();
            let emptying = async move { while !control.duty.work(|| control.empty(&channel)).await {} };
            let _ = tokio::task::spawn_local(emptying).await;
            return Ok(nothing());
        }
    };
    let stats = control.inquiries.ask(control.tower(), &asks).await?;
    let text = control.duty.work(|| {
        for (ask, stats) in asks.iter().zip(&stats) {
            if let Some(stats) = stats {
                ask.put(&mut answer, stats);
            }
        }
        answer.to_string()
    });
    Ok(with_body(StatusCode::OK, JSON, text.await))
}

fn events(
    control: &Rc<Control>,
    headers: &HeaderMap,
    channel: Option<String>,
    until: Option<Instant>,
) -> Result<HttpAnswer, Problem> {
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok());
    let Some(ear) = control.listen(last, until.is_some()) else {
        return Err(Problem::new(503, "busy", "too many listen already: close an event stream first"));
    };
    let mut answer = with_body(StatusCode::OK, event_body::CONTENT_TYPE, "");
    *answer.body_mut() = AnswerBody::Events(EventBody::new(ear, channel, until));
    let close = header::HeaderValue::from_static("close");
    answer.headers_mut().insert(header::CONNECTION, close);
    Ok(answer)
}

fn nothing() -> HttpAnswer {
    let mut answer = HttpAnswer::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// A form of a page cannot send this type without asking first.
fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|given| given.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(JSON) {
        return Ok(());
    }
    let message = "POST and PATCH have a body of JSON, at least {}: send Content-Type: application/json";
    Err(Problem::new(415, "unsupported-media-type", message))
}

async fn read(headers: &HeaderMap, mut body: Incoming) -> Result<Vec<u8>, Problem> {
    let too_long = || {
        let message = format!("a body may have {ADMIN_BODY_BYTES_MAX} bytes");
        Problem::new(413, "body-too-long", message)
    };
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if stated.and_then(|length| length.parse().ok()).is_some_and(|length: u64| length > ADMIN_BODY_BYTES_MAX as u64) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Problem::new(400, "bad-body", "the body is not what its headers say"))?;
        let data: Bytes = frame.into_data().unwrap_or_default();
        if bytes.len() + data.len() > ADMIN_BODY_BYTES_MAX {
            return Err(too_long());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}
