//! HTTP on two listeners. On the public one `/socket` becomes a WebSocket, `/healthz` and `/readyz` answer machines,
//! everything else is the console; on the admin one `/metrics`, `/cluster` and the admin API ([`super::admin`]) are there
//! for the operator. Every answer that is an error is JSON: `{"error":{"code","message"}}`.

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tungstenite::handshake::derive_accept_key;

use super::admin;
use super::answer::{AnswerBody, HttpAnswer, with_body};
use super::browsers;
use super::control::Control;
use super::entry::Offer;
use super::headers::ALWAYS;
use super::query::{BadQuery, Query};
use super::reception::Reception;
use super::refusal::OpenRefusal;
use super::subprotocol::{self, Subprotocols};
use super::timing::Timing;
use super::websocket::OpenSocket;
use super::{clock, console, metrics};
use crate::base::limits::NAME_BYTES_MAX;
use crate::signal::Origin;
use crate::signal::admin::Problem;

/// The listener of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Face {
    Public,
    /// The public one, of a client that does not speak the TLS that is spoken there.
    Insecure,
    Admin,
}

impl Face {
    fn nothing_here(self, path: &str) -> HttpError {
        let message = match (self, path) {
            (Face::Public | Face::Insecure, "/metrics" | "/cluster") => {
                "/metrics and /cluster are for the admin listener: see --admin-listen"
            }
            (Face::Public | Face::Insecure, path) if admin::is_here(path) => {
                "the admin API is for the admin listener, and here for tokens where there are some: see --admin-listen"
            }
            (Face::Public | Face::Insecure, _) => {
                "there is nothing here: / is the console, /socket the WebSocket, /healthz and /readyz for machines"
            }
            (Face::Admin, _) => {
                "there is nothing here: /metrics, /cluster, /v1/openapi.json, /healthz and /readyz are; console and WebSocket are where \
                 --listen says"
            }
        };
        HttpError::new(StatusCode::NOT_FOUND, "not-found", message)
    }
}

struct HttpError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The headers that the status requires (RFC 9110: Allow, Upgrade, Retry-After).
    header: Option<(HeaderName, &'static str)>,
}

impl HttpError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> HttpError {
        HttpError { status, code, message: message.into(), header: None }
    }

    fn of(problem: Problem) -> HttpError {
        let error = HttpError::new(
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            problem.code,
            problem.message,
        );
        match (problem.allow, problem.status) {
            (Some(methods), _) => error.with(header::ALLOW, methods),
            (None, 429 | 503) => error.with(header::RETRY_AFTER, "5"),
            (None, 401) => error.with(header::WWW_AUTHENTICATE, "Bearer"),
            _ => error,
        }
    }

    fn with(self, name: HeaderName, value: &'static str) -> HttpError {
        HttpError { header: Some((name, value)), ..self }
    }
}

pub(super) async fn respond(
    control: Rc<Control>,
    timing: Timing,
    face: Face,
    remote: IpAddr,
    request: Request<Incoming>,
) -> Result<HttpAnswer, Infallible> {
    let mut answer = route(&control, timing, face, remote, request).await.unwrap_or_else(|error| {
        let body = json!({ "error": { "code": error.code, "message": error.message } }).to_string();
        let mut answer = with_body(error.status, "application/json", body);
        if let Some((name, value)) = error.header {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    });
    for (name, value) in ALWAYS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    control.counters.responded(answer.status().as_u16());
    Ok(answer)
}

async fn route(
    control: &Rc<Control>,
    timing: Timing,
    face: Face,
    remote: IpAddr,
    request: Request<Incoming>,
) -> Result<HttpAnswer, HttpError> {
    if face == Face::Insecure {
        return to_tls(&request);
    }
    let path = request.uri().path();
    if face == Face::Admin && admin::is_here(path) {
        return admin::respond(control, timing, request).await.map_err(HttpError::of);
    }
    if face == Face::Public && admin::is_here(path) && control.takes_tokens() {
        return admin::respond_to_token(control, timing, remote, request).await.map_err(HttpError::of);
    }
    let file = console::file(path).filter(|_| face == Face::Public);
    let known = match face {
        Face::Public => file.is_some() || matches!(path, "/socket" | "/healthz" | "/readyz"),
        Face::Admin | Face::Insecure => matches!(path, "/cluster" | "/metrics" | "/healthz" | "/readyz"),
    };
    if !known {
        return Err(face.nothing_here(path));
    }
    let head = request.method() == Method::HEAD && path != "/socket";
    if request.method() != Method::GET && !head {
        let error = HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "only GET is answered here");
        return Err(error.with(header::ALLOW, if path == "/socket" { "GET" } else { "GET, HEAD" }));
    }
    match path {
        "/socket" => open_socket(control, timing, remote, request),
        "/healthz" => Ok(health(control, "ok", false).await),
        "/readyz" => Ok(health(control, "ready", control.starting()).await),
        "/metrics" => Ok(with_body(StatusCode::OK, metrics::CONTENT_TYPE, metrics::page(control).await)),
        "/cluster" => cluster(control, request.headers()).await,
        _ => {
            let (mime, bytes) = file.unwrap_or(("text/plain", b""));
            Ok(with_body(StatusCode::OK, mime, bytes))
        }
    }
}

/// The same place over TLS, as the client named it (RFC 9110 section 15.4.9).
fn to_tls(request: &Request<Incoming>) -> Result<HttpAnswer, HttpError> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = host.and_then(|host| Origin::parse(&format!("https://{host}")).ok());
    let path = request.uri().path_and_query().map(|path| path.as_str()).filter(|path| path.starts_with('/'));
    let location = origin.map(|origin| format!("{origin}{}", path.unwrap_or("/")));
    let Some(location) = location.and_then(|location| HeaderValue::from_str(&location).ok()) else {
        let message = "TLS is spoken here, and the header Host does not say where: use https:// or wss://";
        return Err(HttpError::new(StatusCode::BAD_REQUEST, "tls-required", message));
    };
    let body = json!({ "error": { "code": "tls-required", "message": "TLS is spoken here: use https:// or wss://" } });
    let mut answer = with_body(StatusCode::PERMANENT_REDIRECT, "application/json", body.to_string());
    answer.headers_mut().insert(header::LOCATION, location);
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(answer)
}

/// What this node knows of its cluster. Not for pages, as the admin API is not.
async fn cluster(control: &Control, headers: &HeaderMap) -> Result<HttpAnswer, HttpError> {
    browsers::keep_out(headers, &control.admin_hosts).map_err(HttpError::of)?;
    let view = control.duty.work(|| control.in_cluster(|node| node.view(clock::now()).to_string())).await;
    match view {
        Some(view) => Ok(with_body(StatusCode::OK, "application/json", view)),
        None => {
            let message = "this server runs without --cluster, and so it is alone";
            Err(HttpError::new(StatusCode::NOT_FOUND, "no-cluster", message))
        }
    }
}

/// `well` is the word while shards run and the server neither stops nor starts.
async fn health(control: &Control, well: &'static str, starting: bool) -> HttpAnswer {
    let dead: Vec<u16> = control.scrapes.dead(control.tower()).await.iter().map(|shard| shard.0).collect();
    let (status, word) = match (control.stopping(), dead.is_empty()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "shards-dead"),
        (false, true) if starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        (false, true) => (StatusCode::OK, well),
    };
    let body = json!({ "status": word, "deadShards": dead, "sockets": control.sockets.len() });
    with_body(status, "application/json", body.to_string())
}

/// The server's side of RFC 6455 section 4.2.
fn open_socket(
    control: &Rc<Control>,
    timing: Timing,
    remote: IpAddr,
    mut request: Request<Incoming>,
) -> Result<HttpAnswer, HttpError> {
    let bad = |bad: BadQuery| HttpError::new(StatusCode::BAD_REQUEST, bad.code(), bad.message());
    let query = Query::parse(request.uri().query()).map_err(bad)?;
    let protocols = Subprotocols::of(request.headers()).map_err(bad)?;
    let spoken = protocols.spoken;
    let offer = Offer::of(control.takes_tokens(), query, protocols).map_err(bad)?;
    let accept = match check_handshake(&request) {
        Ok(accept) => accept,
        Err(error) => {
            control.judge(remote, &offer).map_err(|refusal| refused(control, &refusal))?;
            return Err(error);
        }
    };
    check_origin(control, request.headers())?;
    if control.starting() {
        return Err(refused(control, &OpenRefusal::Starting));
    }
    let door = Reception::open(control, remote, offer).map_err(|refusal| refused(control, &refusal))?;
    let upgrade = hyper::upgrade::on(&mut request);
    let running = control.tasks.begin(door.task());
    let control = control.clone();
    tokio::task::spawn_local(async move {
        // A failed upgrade drops the session, which closes it.
        if let Ok(upgraded) = upgrade.await {
            let socket = OpenSocket::new(TokioIo::new(upgraded), control.awake.clone()).await;
            door.serve(socket, &control, remote, timing, running).await;
        }
    });
    let mut answer = Response::new(AnswerBody::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if spoken {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol::NAME));
    }
    Ok(answer)
}

fn refused(control: &Control, refusal: &OpenRefusal) -> HttpError {
    control.counters.entry_refused(refusal);
    let status = StatusCode::from_u16(refusal.http_status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let error = HttpError::new(status, refusal.code(), refusal.message());
    match status.as_u16() {
        // RFC 9110 section 15.5.2.
        401 => error.with(header::WWW_AUTHENTICATE, "Bearer"),
        429 | 503 => error.with(header::RETRY_AFTER, "5"),
        _ => error,
    }
}

/// The value of Sec-WebSocket-Accept.
fn check_handshake(request: &Request<Incoming>) -> Result<HeaderValue, HttpError> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 || !names(headers, header::UPGRADE, "websocket") {
        let message = "this is a WebSocket: connect with ws:// or wss://";
        let error = HttpError::new(StatusCode::UPGRADE_REQUIRED, "upgrade-required", message);
        return Err(error.with(header::UPGRADE, "websocket"));
    }
    if !names(headers, header::SEC_WEBSOCKET_VERSION, "13") {
        let error = HttpError::new(StatusCode::UPGRADE_REQUIRED, "websocket-version", "only version 13 is spoken");
        return Err(error.with(header::SEC_WEBSOCKET_VERSION, "13"));
    }
    let bad = |message| HttpError::new(StatusCode::BAD_REQUEST, "bad-handshake", message);
    if !names(headers, header::CONNECTION, "upgrade") {
        return Err(bad("the header Connection does not say Upgrade"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("the header Sec-WebSocket-Key is missing"))?;
    // 16 bytes in base64 (RFC 6455 section 4.1).
    if key.len() != 24 {
        return Err(bad("the header Sec-WebSocket-Key does not hold 16 bytes in base64"));
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad("the header Sec-WebSocket-Key is wrong"))
}

/// RFC 6455 section 10.2: a client that is no browser names no origin; a page's origin must be the server's own, this
/// machine's, or one that the operator has allowed.
fn check_origin(control: &Control, headers: &HeaderMap) -> Result<(), HttpError> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let stranger = |origin: &&HeaderValue| !origin.to_str().is_ok_and(|origin| control.origins.admit(origin, host));
    let Some(origin) = headers.get_all(header::ORIGIN).iter().find(stranger) else { return Ok(()) };
    // A stranger's text: as much of it as a name may have, and no control characters.
    let shown = String::from_utf8_lossy(&origin.as_bytes()[..origin.len().min(NAME_BYTES_MAX)]).into_owned();
    control.counters.origin_refused();
    if let Some(left_out) = control.strangers.now(clock::now()) {
        tracing::warn!(
            origin = ?shown,
            ?host,
            left_out,
            "a page of another origin may not open a WebSocket: let it in with --allow-origin, if it is yours"
        );
    }
    let message = format!(
        "pages of the origin {shown:?} may not open a WebSocket here: the server's operator lets them in with \
         --allow-origin {}",
        Origin::parse(&shown).map_or_else(|_| "'*'".to_owned(), |origin| origin.to_string())
    );
    Err(HttpError::new(StatusCode::FORBIDDEN, "origin-refused", message))
}

/// Whether a header that lists tokens has this one.
fn names(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut texts = values.iter().filter_map(|value| value.to_str().ok());
    texts.any(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}
