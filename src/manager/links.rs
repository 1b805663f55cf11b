//! The connections: dials and accepted ones, each a task of its own, and the bounded way to each.
//! The manager never waits for a worker: one that does not take what it is told is cut off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, Id, JoinSet};

use crate::fleet::{ConnId, ConnectOutcome, Event, Order, Why, WorkerName, WorkerSpec};
use crate::interface::{
    DataDoor, Ended, LinkCommand, LinkIo, LinkLimits, LinkMeter, Target, Token,
    factory::WorkerInterfaceFactory,
    mailbox::{self, NotTaken, mailbox},
};
use crate::trust::Trust;

/// Orders that may wait for one connection. Executes and cancels are bounded by slots, so a full
/// queue means that the worker does not read.
const QUEUED_ORDERS: usize = 4_096;

pub(super) struct Links {
    next: u64,
    events: mpsc::Sender<Event>,
    factory: WorkerInterfaceFactory,
    door: Arc<dyn DataDoor>,
    meter: Arc<dyn LinkMeter>,
    limits: LinkLimits,
    trust: Trust,
    open: FxHashMap<ConnId, mailbox::Sender>,
    dials: HashMap<WorkerName, (ConnId, AbortHandle)>,
    tasks: JoinSet<()>,
    by_task: HashMap<Id, (ConnId, WorkerName)>,
}

impl Links {
    pub(super) fn new(
        events: mpsc::Sender<Event>,
        factory: WorkerInterfaceFactory,
        door: Arc<dyn DataDoor>,
        meter: Arc<dyn LinkMeter>,
        limits: LinkLimits,
        trust: Trust,
    ) -> Self {
        Self {
            next: 0,
            events,
            factory,
            door,
            meter,
            limits,
            trust,
            open: FxHashMap::default(),
            dials: HashMap::new(),
            tasks: JoinSet::new(),
            by_task: HashMap::new(),
        }
    }

    /// A new connection's number and its ways into the server.
    pub(super) fn open(&mut self) -> LinkIo {
        self.next += 1;
        let conn = ConnId(self.next);
        let (sender, commands) = mailbox(QUEUED_ORDERS);
        self.open.insert(conn, sender);
        LinkIo {
            conn,
            commands,
            events: self.events.clone(),
            door: Arc::clone(&self.door),
            meter: Arc::clone(&self.meter),
            limits: self.limits,
        }
    }

    /// Dials a worker; `LinkUp` or `DialFailed` follows, and `LinkDown` at the end.
    pub(super) fn dial(&mut self, spec: &Arc<WorkerSpec>, token: Option<Token>) {
        let io = self.open();
        let conn = io.conn;
        let (name, events) = (spec.name.clone(), self.events.clone());
        let own = self.trust.credentials().of(&name).cloned().unwrap_or_default();
        let target = Target {
            worker: name.clone(),
            spec: Arc::clone(spec),
            // A program that we started was given a fresh one.
            token: token.or_else(|| own.token.clone()),
            tls: self.trust.tls.clone(),
            files: own.tls.clone(),
        };
        let run = self.factory.interface(spec).run(target, io);
        let worker = name.clone();
        let handle = self.tasks.spawn(async move {
            let event = match run.await {
                Ended::NotConnected(outcome, detail) => Event::DialFailed(worker, outcome, detail.into()),
                Ended::Down(why) => Event::LinkDown(conn, why),
            };
            // The lane is closed only when the server is gone.
            drop(events.send(event).await);
        });
        self.by_task.insert(handle.id(), (conn, name.clone()));
        self.dials.insert(name, (conn, handle));
    }

    /// Stops a dial.
    pub(super) fn hang_up(&mut self, worker: &WorkerName) {
        if let Some((conn, handle)) = self.dials.remove(worker) {
            handle.abort();
            self.open.remove(&conn);
        }
    }

    /// Tells a connection something. An event when that cannot be done: the connection is over.
    pub(super) fn order(&mut self, conn: ConnId, order: Order, decided: Instant) -> Option<Event> {
        self.send(conn, LinkCommand::Order(order, decided))
    }

    /// Closes a connection after what it was told before.
    pub(super) fn close(&mut self, conn: ConnId, why: Why) -> Option<Event> {
        self.send(conn, LinkCommand::Close(why))
    }

    /// Measures a round trip; the sender is dropped when the worker is not connected.
    pub(super) fn probe(&mut self, conn: Option<ConnId>, reply: oneshot::Sender<std::time::Duration>) {
        if let Some(link) = conn.and_then(|conn| self.open.get(&conn)) {
            // A probe that finds no room is not answered, which is what its caller is told.
            link.send(LinkCommand::Probe(reply)).ok();
        }
    }

    fn send(&mut self, conn: ConnId, command: LinkCommand) -> Option<Event> {
        match self.open.get(&conn)?.send(command) {
            // One whose task has ended says so itself, by an event that is on its way.
            Ok(()) | Err(NotTaken::Closed) => None,
            Err(NotTaken::Full) => {
                self.cut(conn);
                Some(Event::LinkDown(conn, Why::SlowConsumer))
            }
        }
    }

    /// Ends a connection at once: its task, if it is ours, and its way in (which ends an accepted one).
    fn cut(&mut self, conn: ConnId) {
        self.open.remove(&conn);
        if let Some((_, handle)) = self.dials.values().find(|(dialled, _)| *dialled == conn) {
            handle.abort();
        }
    }

    /// A connection is over: forget its way in.
    pub(super) fn ended(&mut self, conn: ConnId) {
        self.open.remove(&conn);
    }

    /// Waits until a dialled connection's task has ended. An event when it did not end by itself.
    /// Cancel-safe; never returns while there is none.
    pub(super) async fn reaped(&mut self) -> Option<Event> {
        let ended = match self.tasks.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(ended) => ended,
        };
        let (id, failure) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let (conn, worker) = self.by_task.remove(&id)?;
        self.open.remove(&conn);
        let current = self.dials.get(&worker).is_some_and(|(dialled, _)| *dialled == conn);
        if current {
            self.dials.remove(&worker);
        }
        match failure {
            None => None,
            // Aborted by `hang_up` or `cut`; it may have registered in between.
            Some(error) if error.is_cancelled() => Some(Event::LinkDown(conn, Why::Io)),
            Some(error) => {
                tracing::error!(%worker, %error, "a connection's task panicked; this is a bug in Rollcall");
                self.meter.protocol_error("unexpected");
                Some(Event::LinkDown(conn, Why::Io))
            }
        }
        .inspect(|_| self.panicked(&worker, current))
    }

    /// A dial that ended without a word would leave the core waiting for one.
    fn panicked(&self, worker: &WorkerName, current: bool) {
        if current {
            let detail = "the connection's task was stopped".into();
            let event = Event::DialFailed(worker.clone(), ConnectOutcome::Handshake, detail);
            if let Err(error) = self.events.try_send(event) {
                tracing::error!(%worker, %error, "cannot tell the core that a dial ended");
            }
        }
    }

    /// Ends every connection that is still there.
    pub(super) async fn shutdown(&mut self) {
        self.open.clear();
        let patience = std::time::Duration::from_secs(3);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "connections did not close in time and are cut");
            self.tasks.shutdown().await;
        }
    }
}
