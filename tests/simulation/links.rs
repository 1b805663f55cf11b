//! The simulated network: connections are two pipes, first in, first out, each with its own delays
//! and failures. What travels on different connections has no order.

use std::sync::Arc;
use std::time::Duration;

use rollcall::fleet::*;

use super::world::{Happening, Process, World, nanos};

/// A frame on its way to the server.
#[derive(Debug)]
pub(crate) enum Frame {
    /// The first.
    Register(Box<Registration>),
    /// Every other.
    Report(Report),
}

/// One direction of a connection.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Pipe {
    /// When the newest frame arrives.
    last: u64,
    /// Nothing arrives before.
    pub(crate) held_until: u64,
    /// Nothing arrives any more, and the sender does not notice.
    pub(crate) dead: bool,
}

/// A connection between the server and one process.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) process: Process,
    /// The server's process; another one does not know this connection.
    life: u32,
    /// Which worker was dialled for it, if one was.
    dialled: Option<WorkerName>,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// The server's side is open.
    pub(crate) server_open: bool,
    /// The worker's side is open.
    pub(crate) worker_open: bool,
    /// The core knows of it.
    announced: bool,
    /// The worker has been welcomed.
    pub(crate) welcomed: bool,
    /// When the down direction began to be silent.
    pub(crate) silent_since: Option<u64>,
}

impl World {
    fn latency(&mut self) -> Duration {
        let longest = self.plan.latency;
        self.dice.span(Duration::from_micros(20), longest.max(Duration::from_micros(20)))
    }

    /// The core wants a worker dialled.
    pub(crate) fn dial(&mut self, worker: WorkerName) {
        let number = self.server.next_dial;
        self.server.next_dial += 1;
        self.server.dialling.insert(worker.clone(), number);
        let wait = self.latency() * 2;
        self.soon(Happening::Dialled(worker, number), wait);
    }

    /// The core wants no more dialling.
    pub(crate) fn hang_up(&mut self, worker: &WorkerName) {
        self.server.dialling.remove(worker);
        let life = self.server.life;
        let unannounced = |link: &Link| {
            link.life == life && link.server_open && !link.announced && link.dialled.as_ref() == Some(worker)
        };
        let found: Vec<ConnId> =
            self.links.iter().filter(|(_, link)| unannounced(link)).map(|(conn, _)| *conn).collect();
        for conn in found {
            self.drop_server_side(conn);
        }
    }

    /// Where a worker is dialled: where the topology says, or where it was known before it left that.
    fn endpoint_of(&self, worker: &WorkerName) -> Option<Arc<str>> {
        if let Some(spec) = self.topology.workers.get(worker) {
            return spec.endpoint.clone();
        }
        let views = self.server.fleet.as_ref()?.workers();
        views.into_iter().find(|view| view.name == *worker)?.endpoint
    }

    /// A dial has come to its end.
    pub(crate) fn dialled(&mut self, worker: &WorkerName, number: u64) {
        if self.server.dialling.get(worker) != Some(&number) {
            return;
        }
        let Some(address) = self.endpoint_of(worker) else {
            self.dial_fails(worker, ConnectOutcome::Dns, Duration::ZERO);
            return;
        };
        let away = self.unreachable.get(&address).is_some_and(|until| *until > self.time);
        let listening = |site: &super::workers::Site| site.up && site.plan.addresses.contains(&address);
        let Some(site) = self.sites.iter().position(listening) else {
            self.dial_fails(worker, ConnectOutcome::Refused, Duration::from_micros(200));
            return;
        };
        if away || self.sites[site].frozen_until > self.time {
            self.dial_fails(worker, ConnectOutcome::Timeout, Duration::from_secs(10));
            return;
        }
        if let Some(old) = self.sites[site].link {
            let busy = self.sites[site].impostor || self.dice.chance(500);
            // A worker has one controller at a time; the same one may come anew.
            if busy {
                self.dial_fails(worker, ConnectOutcome::Handshake, Duration::from_micros(200));
                return;
            }
            self.drop_worker_side(old);
        }
        self.connect(site, Some(worker.clone()), worker.clone());
    }

    /// A dial fails after a while, unless the core hangs up before.
    fn dial_fails(&mut self, worker: &WorkerName, outcome: ConnectOutcome, wait: Duration) {
        if let Some(number) = self.server.dialling.get(worker).copied() {
            self.soon(Happening::DialFails(worker.clone(), number, outcome), wait);
        }
    }

    /// A dial has failed.
    pub(crate) fn dial_failed(&mut self, worker: WorkerName, number: u64, outcome: ConnectOutcome) {
        if self.server.dialling.get(&worker) == Some(&number) {
            self.server.dialling.remove(&worker);
            self.tell(Event::DialFailed(worker, outcome, Arc::from("simulated")));
        }
    }

    /// A connection on which nobody registered in time is closed.
    pub(crate) fn handshake_over(&mut self, conn: ConnId) {
        if self.links.get(&conn).is_some_and(|link| link.server_open && !link.announced) {
            self.server_ends(conn, Why::Protocol);
        }
    }

    /// Makes a connection; the worker registers on it at once.
    pub(crate) fn connect(&mut self, site: usize, dialled: Option<WorkerName>, claims: WorkerName) {
        self.connect_with(site, dialled, claims, Vec::new());
    }

    /// Makes a connection; the worker claims attempts beside its own.
    pub(crate) fn connect_with(
        &mut self,
        site: usize,
        dialled: Option<WorkerName>,
        claims: WorkerName,
        stolen: Vec<HeldAttempt>,
    ) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let process = self.sites[site].process(site);
        let mut registration = self.registration(site, claims, dialled.is_some());
        registration.attempts.extend(stolen);
        let link = Link {
            process,
            life: self.server.life,
            dialled,
            up: Pipe::default(),
            down: Pipe::default(),
            server_open: true,
            worker_open: true,
            announced: false,
            welcomed: false,
            silent_since: None,
        };
        self.links.insert(conn, link);
        self.sites[site].link = Some(conn);
        self.soon(Happening::HandshakeOver(conn), Duration::from_secs(10));
        self.send_up(conn, Frame::Register(Box::new(registration)));
    }

    /// A worker sends a frame.
    pub(crate) fn send_up(&mut self, conn: ConnId, frame: Frame) {
        let wait = nanos(self.latency());
        let Some(link) = self.links.get_mut(&conn) else { return };
        if !link.worker_open {
            return;
        }
        link.up.last = link.up.last.max(link.up.held_until).max(self.time + wait);
        let at = link.up.last;
        self.at(at, Happening::Up(conn, frame));
    }

    /// The core says something to a worker.
    pub(crate) fn send_down(&mut self, conn: ConnId, order: Order) {
        let wait = nanos(self.latency());
        let Some(link) = self.links.get_mut(&conn) else { return };
        if !link.server_open {
            return;
        }
        link.down.last = link.down.last.max(link.down.held_until).max(self.time + wait);
        let at = link.down.last;
        self.at(at, Happening::Down(conn, Box::new(order)));
    }

    /// A frame arrives at the server.
    pub(crate) fn arrives_up(&mut self, conn: ConnId, frame: Frame) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        if !link.server_open || link.up.dead || link.life != self.server.life {
            return;
        }
        if link.up.held_until > self.time {
            let at = link.up.held_until;
            self.at(at, Happening::Up(conn, frame));
            return;
        }
        match frame {
            Frame::Register(registration) => {
                link.announced = true;
                if let Some(worker) = link.dialled.clone() {
                    self.server.dialling.remove(&worker);
                }
                self.tell(Event::LinkUp(conn, registration));
            }
            Frame::Report(report) => self.tell(Event::Report(conn, report)),
        }
    }

    /// An order arrives at the worker.
    pub(crate) fn arrives_down(&mut self, conn: ConnId, order: Box<Order>) {
        let Some(link) = self.links.get(&conn) else { return };
        let process = link.process;
        let site = &self.sites[process.site];
        if !link.worker_open || link.down.dead || !site.runs(process) {
            return;
        }
        let held_until = link.down.held_until.max(site.frozen_until);
        if held_until > self.time {
            self.at(held_until, Happening::Down(conn, order));
            return;
        }
        self.obey(process, conn, *order);
    }

    /// The core wants a connection closed: what was said is flushed, for two seconds at most.
    pub(crate) fn close(&mut self, conn: ConnId, why: Why) {
        let Some(link) = self.links.get(&conn) else { return };
        if !link.server_open {
            return;
        }
        let flushed = link.down.last.max(self.time).min(self.time + 2_000_000_000);
        self.at(flushed, Happening::ServerEnds(conn, why));
    }

    /// The server's side of a connection ends, and the core is told.
    pub(crate) fn server_ends(&mut self, conn: ConnId, why: Why) {
        let Some(link) = self.links.get(&conn) else { return };
        if !link.server_open || link.life != self.server.life {
            return;
        }
        let announced = link.announced;
        let dialled = link.dialled.clone();
        self.drop_server_side(conn);
        if announced {
            self.tell(Event::LinkDown(conn, why));
        } else if let Some(worker) = dialled {
            self.dial_fails(&worker, ConnectOutcome::Handshake, Duration::ZERO);
        }
    }

    /// The worker's side of a connection ends.
    pub(crate) fn worker_ends(&mut self, conn: ConnId) {
        let Some(link) = self.links.get(&conn) else { return };
        let frozen_until = self.sites[link.process.site].frozen_until;
        if frozen_until > self.time {
            self.at(frozen_until, Happening::WorkerEnds(conn));
            return;
        }
        self.drop_worker_side(conn);
    }

    /// Ends the server's side without a word to the core; the worker notices, if it can.
    fn drop_server_side(&mut self, conn: ConnId) {
        let wait = nanos(self.latency());
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.server_open = false;
        if link.worker_open && !link.down.dead {
            let at = link.down.last.max(link.down.held_until).max(self.time + wait);
            self.at(at, Happening::WorkerEnds(conn));
        }
        self.forget_if_over(conn);
    }

    /// Ends the worker's side; the server notices, if it can.
    pub(crate) fn drop_worker_side(&mut self, conn: ConnId) {
        let wait = nanos(self.latency());
        let Some(link) = self.links.get_mut(&conn) else { return };
        if link.worker_open {
            link.worker_open = false;
            let process = link.process;
            if link.server_open && !link.up.dead {
                let at = link.up.last.max(link.up.held_until).max(self.time + wait);
                let why = if self.dice.chance(500) { Why::PeerClosed } else { Why::Io };
                self.at(at, Happening::ServerEnds(conn, why));
            }
            self.lost_link(process, conn);
        }
        self.forget_if_over(conn);
    }

    fn forget_if_over(&mut self, conn: ConnId) {
        if self.links.get(&conn).is_some_and(|link| !link.server_open && !link.worker_open) {
            self.links.remove(&conn);
        }
    }

    /// A connection breaks in the middle: what is under way is lost, each side notices by itself.
    pub(crate) fn cut(&mut self, conn: ConnId) {
        let (first, second) = (self.latency(), self.latency());
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.up.dead = true;
        link.down.dead = true;
        self.soon(Happening::ServerEnds(conn, Why::Io), first);
        self.soon(Happening::WorkerEnds(conn), second * 4);
    }

    /// The server's process is gone; its kernel closes what it had open.
    pub(crate) fn links_lose_server(&mut self) {
        let open: Vec<ConnId> =
            self.links.iter().filter(|(_, link)| link.server_open).map(|(conn, _)| *conn).collect();
        for conn in open {
            self.drop_server_side(conn);
        }
    }
}
