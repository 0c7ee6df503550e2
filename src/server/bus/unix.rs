//! The bus of processes of one machine, over a Unix socket and without an engine. Whoever holds the lock beside the socket
//! listens and passes on what the others say; when it ends, one of them takes its place.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{AbortHandle, JoinSet, spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use super::Bus;
use super::broker::{Broker, ProcessId};
use super::frames::{BusFrame, FRAME_BYTES_MAX};
use crate::base::limits::BUS_QUEUE_MAX;
use crate::signal::cluster::BusEvent;

/// Until the next try to connect or to listen.
const RETRY: Duration = Duration::from_millis(50);
/// Processes beside the one that listens.
const PROCESSES_MAX: usize = 64;
/// This process, to a broker in it.
const OWN: ProcessId = 0;
/// The interval of warnings that neither is possible.
const WARN_EVERY: u32 = 1_200;
const FLUSH_MAX: Duration = Duration::from_millis(300);

pub(super) struct UnixBus {
    link: Rc<Link>,
    task: AbortHandle,
}

/// What the bus's users and its task share.
struct Link {
    path: PathBuf,
    interest: RefCell<BTreeSet<String>>,
    /// The way to the broker, while there is one.
    out: RefCell<Option<Sender<BusFrame>>>,
    leave: Notify,
    events: Sender<BusEvent>,
}

impl UnixBus {
    pub(super) fn open(path: PathBuf, events: Sender<BusEvent>) -> UnixBus {
        let (interest, out, leave) = (RefCell::default(), RefCell::default(), Notify::new());
        let link = Rc::new(Link { path, interest, out, leave, events });
        let task = spawn_local(run(link.clone())).abort_handle();
        UnixBus { link, task }
    }
}

impl Drop for UnixBus {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bus for UnixBus {
    fn subscribe(&self, subject: &str) {
        self.link.interest.borrow_mut().insert(subject.to_owned());
        self.link.send(BusFrame::Subscribe(subject.to_owned()));
    }

    fn unsubscribe(&self, subject: &str) {
        self.link.interest.borrow_mut().remove(subject);
        self.link.send(BusFrame::Unsubscribe(subject.to_owned()));
    }

    fn publish(&self, subject: &str, reply: Option<&str>, payload: Vec<u8>) {
        let (subject, reply) = (subject.to_owned(), reply.map(str::to_owned));
        self.link.send(BusFrame::Message { subject, reply, payload });
    }

    fn force_reconnect(&self) {
        self.link.leave.notify_one();
    }

    fn flushed(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        let out = self.link.out.borrow().clone();
        Box::pin(async move {
            let Some(out) = out else { return };
            let empty = async {
                while out.capacity() < out.max_capacity() {
                    yield_now().await
                }
            };
            let _ = timeout(FLUSH_MAX, empty).await;
            // The last frame was taken out of the queue; its writing is one step more.
            yield_now().await;
        })
    }
}

impl Link {
    fn send(&self, frame: BusFrame) {
        let Some(out) = &*self.out.borrow() else { return };
        if let Err(TrySendError::Full(_)) = out.try_send(frame) {
            tracing::debug!("a message of the cluster was not sent: too many wait");
        }
    }

    /// Has the way to a broker from now on, and tells it what this process listens to.
    async fn connected(&self, out: Sender<BusFrame>) {
        let interest: Vec<String> = self.interest.borrow().iter().cloned().collect();
        self.out.replace(Some(out.clone()));
        for subject in interest {
            // A broker that is gone by now is noticed by who reads from it.
            let _ = out.send(BusFrame::Subscribe(subject)).await;
        }
        let engine = format!("unix:{}", self.path.display());
        let _ = self.events.send(BusEvent::Connected { engine }).await;
    }

    async fn disconnected(&self) {
        self.out.replace(None);
        let _ = self.events.send(BusEvent::Disconnected).await;
    }
}

/// For ever. The tasks that it starts end with it.
async fn run(link: Rc<Link>) {
    let mut tries = 0;
    loop {
        let refused = match lock(&link.path) {
            Ok(Some(_lock)) => listen(&link).await,
            Ok(None) => match UnixStream::connect(&link.path).await {
                Ok(stream) => {
                    tries = 0;
                    follow(&link, stream).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = refused {
            if tries % WARN_EVERY == 20 {
                tracing::warn!(%error, "the socket {} of --cluster cannot be used, and is tried again", link.path.display());
            }
            tries += 1;
        }
        sleep(RETRY).await;
    }
}

/// The right to listen, for as long as the file is open. None: another process has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let beside = path.with_added_extension("lock");
    let file = File::options().create(true).truncate(false).write(true).open(beside)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// A socket's file, removed with its listener.
struct SocketFile<'a>(&'a Path);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// Serves the others, for ever. Err: the socket cannot be bound.
async fn listen(link: &Link) -> io::Result<()> {
    // Whoever listened before is gone, or the lock would be its.
    let _ = std::fs::remove_file(&link.path);
    let listener = UnixListener::bind(&link.path)?;
    let _file = SocketFile(&link.path);
    std::fs::set_permissions(&link.path, Permissions::from_mode(0o600))?;
    let (out, own) = mpsc::channel(BUS_QUEUE_MAX);
    let (into, frames) = mpsc::channel::<(ProcessId, Said)>(BUS_QUEUE_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn_local(pass_own(own, into.clone()));
    tasks.spawn_local(serve(frames, link.events.clone()));
    link.connected(out).await;
    let mut last = OWN;
    loop {
        // One that could not be accepted is not there.
        let Ok((stream, _)) = listener.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= 2 * PROCESSES_MAX {
            continue;
        }
        last += 1;
        let (reading, writing) = stream.into_split();
        let (out, waiting) = mpsc::channel(BUS_QUEUE_MAX);
        tasks.spawn_local(write(writing, waiting));
        tasks.spawn_local(hear(last, reading, out, into.clone()));
    }
}

/// What a broker hears.
enum Said {
    Joined(Sender<BusFrame>),
    Frame(BusFrame),
    Left,
}

async fn pass_own(mut own: Receiver<BusFrame>, into: Sender<(ProcessId, Said)>) {
    while let Some(frame) = own.recv().await {
        if into.send((OWN, Said::Frame(frame))).await.is_err() {
            return;
        }
    }
}

async fn hear(id: ProcessId, mut reading: OwnedReadHalf, out: Sender<BusFrame>, into: Sender<(ProcessId, Said)>) {
    if into.send((id, Said::Joined(out))).await.is_err() {
        return;
    }
    while let Ok(Some(frame)) = read(&mut reading).await {
        if into.send((id, Said::Frame(frame))).await.is_err() {
            return;
        }
    }
    let _ = into.send((id, Said::Left)).await;
}

/// The broker of this machine.
async fn serve(mut frames: Receiver<(ProcessId, Said)>, events: Sender<BusEvent>) {
    let mut broker = Broker::default();
    broker.joined(OWN);
    let mut others: std::collections::BTreeMap<ProcessId, (Sender<BusFrame>, bool)> = Default::default();
    while let Some((from, said)) = frames.recv().await {
        let frame = match said {
            Said::Joined(out) => {
                broker.joined(from);
                others.insert(from, (out, false));
                continue;
            }
            Said::Left => {
                broker.left(from);
                others.remove(&from);
                continue;
            }
            Said::Frame(frame) => frame,
        };
        for (to, frame) in broker.take(from, frame) {
            if to == OWN {
                if let Some(event) = event(frame)
                    && events.send(event).await.is_err()
                {
                    return;
                }
                continue;
            }
            let Some((out, behind)) = others.get_mut(&to) else { continue };
            // Whoever reads too slowly loses messages, and is told so before the next one that it gets.
            let told = !*behind || out.try_send(BusFrame::Behind).is_ok();
            *behind = !told || matches!(out.try_send(frame), Err(TrySendError::Full(_)));
        }
    }
}

/// Speaks with the process that listens, until it is gone or is to be left.
async fn follow(link: &Link, stream: UnixStream) {
    let (mut reading, writing) = stream.into_split();
    let (out, waiting) = mpsc::channel(BUS_QUEUE_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn_local(write(writing, waiting));
    // A demand from before is met by this connection.
    let _ = futures_util::FutureExt::now_or_never(link.leave.notified());
    link.connected(out).await;
    let hears = async {
        while let Ok(Some(frame)) = read(&mut reading).await {
            if let Some(event) = event(frame)
                && link.events.send(event).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = hears => {}
        () = link.leave.notified() => {}
    }
    link.disconnected().await;
}

fn event(frame: BusFrame) -> Option<BusEvent> {
    match frame {
        BusFrame::Message { subject, reply, payload } => Some(BusEvent::Message { subject, reply, payload }),
        BusFrame::Nobody(inbox) => Some(BusEvent::Nobody { inbox }),
        BusFrame::Behind => Some(BusEvent::Behind),
        BusFrame::Subscribe(_) | BusFrame::Unsubscribe(_) => None,
    }
}

async fn write(mut writing: OwnedWriteHalf, mut waiting: Receiver<BusFrame>) {
    while let Some(frame) = waiting.recv().await {
        // Whoever reads there notices the same.
        if writing.write_all(&frame.to_bytes()).await.is_err() {
            return;
        }
    }
}

/// The next frame. None: it is none of ours.
async fn read(reading: &mut OwnedReadHalf) -> io::Result<Option<BusFrame>> {
    let length = reading.read_u32().await? as usize;
    if length > FRAME_BYTES_MAX {
        return Ok(None);
    }
    // Grows with what comes, not with what is announced.
    let mut bytes = Vec::new();
    let read = reading.take(length as u64).read_to_end(&mut bytes).await?;
    Ok(if read == length { BusFrame::parse(&bytes) } else { None })
}
