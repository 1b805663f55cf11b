//! What goes wrong in the simulated world, and how it is healed at the end.

use std::sync::Arc;

use rollcall::fleet::*;

use super::links::Frame;
use super::plan::Fault as Kind;
use super::world::{Happening, World, nanos};

/// What [`World::count`] counts here.
pub(crate) const WALL_JUMPED: &str = "the wall clock jumps";

impl World {
    /// The next fault.
    pub(crate) fn fault(&mut self) {
        let Some(every) = self.plan.fault_every.filter(|_| !self.calm) else { return };
        let wait = self.dice.span(every / 8, every * 4);
        self.soon(Happening::Fault, wait);
        let kind = *self.dice.pick(&self.plan.faults);
        let interval = self.topology.settings.heartbeat_interval;
        let a_while = self.dice.span(interval / 10, interval * 8);
        let until = self.time + nanos(a_while);
        let site = self.dice.below(self.sites.len());
        let link = self.some_link();
        match kind {
            Kind::WorkerCrash => self.kill(site),
            Kind::Cut => {
                if let Some(conn) = link {
                    self.cut(conn);
                }
            }
            Kind::DeafServer | Kind::DeafWorker => {
                if let Some(link) = link.and_then(|conn| self.links.get_mut(&conn)) {
                    let pipe = if kind == Kind::DeafServer { &mut link.up } else { &mut link.down };
                    pipe.dead = true;
                }
            }
            Kind::Delay => {
                let (up, down) = (self.dice.chance(600), self.dice.chance(600));
                if let Some(link) = link.and_then(|conn| self.links.get_mut(&conn)) {
                    link.up.held_until = if up { until } else { link.up.held_until };
                    link.down.held_until = if down { until } else { link.down.held_until };
                }
            }
            Kind::Sick => self.sites[site].sick_until = until,
            Kind::Freeze => self.sites[site].frozen_until = until,
            Kind::Unreachable => {
                for address in self.sites[site].plan.addresses.clone() {
                    self.unreachable.insert(address, until);
                }
            }
            Kind::SlowConsumer => {
                if let Some(conn) = link {
                    self.server_ends(conn, Why::SlowConsumer);
                }
            }
            Kind::Goodbye => self.says_goodbye(site),
            Kind::Impostor => self.impostor(),
            Kind::Lie => self.lie(),
            Kind::WallJump => {
                let hour = i64::try_from(self.dice.between(0, 3_600_000)).unwrap_or(0);
                self.wall_offset += if self.dice.chance(500) { hour } else { -hour };
                self.count(WALL_JUMPED);
            }
            Kind::Stall => {
                // A machine that was suspended finds its connections broken.
                let suspended = link.filter(|_| self.dice.chance(500));
                self.server_stalls(suspended.is_some());
                if let Some(conn) = suspended {
                    self.cut(conn);
                }
            }
            Kind::ServerCrash if self.dice.chance(500) => self.server.dies_within = true,
            Kind::ServerCrash => self.server_crashes(),
            Kind::ServerRestart => self.server_stops(),
            Kind::StoreFails => self.store_fails(),
            Kind::SlowDisk => self.disk.slow_until = until,
            Kind::Reload => self.reload(),
            Kind::Operator => self.operator(),
            Kind::Burst => self.burst(),
        }
    }

    fn some_link(&mut self) -> Option<ConnId> {
        let open: Vec<ConnId> =
            self.links.iter().filter(|(_, link)| link.server_open).map(|(conn, _)| *conn).collect();
        (!open.is_empty()).then(|| *self.dice.pick(&open))
    }

    /// Another process, that has no connection, dials in under a name that is not its own; it may
    /// claim that it has another's attempt.
    fn impostor(&mut self) {
        let names: Vec<WorkerName> = self.topology.workers.keys().cloned().collect();
        let free: Vec<usize> = (0..self.sites.len())
            .filter(|site| self.sites[*site].up && self.sites[*site].link.is_none())
            // One that leaves its own name behind with work in hand is dead to the core, not to the checkers.
            .filter(|site| !self.sites[*site].plan.of_pool)
            .collect();
        if self.server.fleet.is_none() || names.is_empty() || free.is_empty() {
            return;
        }
        let site = *self.dice.pick(&free);
        let claims = if self.dice.chance(100) { "nobody".into() } else { self.dice.pick(&names).clone() };
        self.sites[site].impostor = true;
        let strangers = self.sites.iter().enumerate().filter(|(index, _)| *index != site);
        let others: Vec<(TaskId, Epoch)> =
            strangers.flat_map(|(_, site)| site.held.keys().copied()).collect();
        let mut stolen = Vec::new();
        if !others.is_empty() && self.dice.chance(500) {
            let (task, epoch) = *self.dice.pick(&others);
            stolen.push(HeldAttempt { task, epoch, done: self.dice.chance(500) });
        }
        self.connect_with(site, None, claims, stolen);
    }

    /// A worker reports what is not so.
    fn lie(&mut self) {
        let site = self.dice.below(self.sites.len());
        let Some(conn) = self.open_link(site) else { return };
        let others: Vec<(TaskId, Epoch)> =
            self.sites.iter().flat_map(|site| site.held.keys().copied()).collect();
        let (task, epoch) = if others.is_empty() || self.dice.chance(200) {
            (TaskId(u128::from(self.dice.word())), Epoch(self.dice.between(0, 1 << 33)))
        } else {
            *self.dice.pick(&others)
        };
        let epoch = match self.dice.below(4) {
            0 => Epoch(epoch.0.saturating_sub(1)),
            1 => Epoch(self.dice.between(0, epoch.0)),
            2 => Epoch(epoch.0 + 1),
            _ => epoch,
        };
        let own = self.sites[site].held.contains_key(&(task, epoch));
        let report = match self.dice.below(5) {
            0 if !own => Report::Accepted { task, epoch },
            1 if !own => {
                Report::Rejected { task, epoch, reason: Arc::from("a lie"), retryable: self.dice.chance(500) }
            }
            2 if !own => Report::Result(Box::new(ResultReport {
                task,
                epoch,
                status: *self.dice.pick(&AttemptOutcome::ALL),
                output: Some("\"a lie\"".into()),
                error: None,
                usage: None,
                artifacts: Vec::new(),
                session_open: None,
            })),
            3 => Report::Heartbeat { running: vec![(task, epoch), (TaskId(9), Epoch(9))] },
            _ => Report::Heartbeat { running: Vec::new() },
        };
        self.observer.lied(&self.sites[site].plan);
        self.send_up(conn, Frame::Report(report));
    }

    /// The end of all faults: everything that can work does from now on.
    pub(crate) fn heal(&mut self) {
        self.calm = true;
        self.server.dies_within = false;
        self.unreachable.clear();
        self.disk.slow_until = 0;
        self.store_mends(self.server.life);
        if self.server.away_until() > self.time {
            self.server.comes_back();
            self.resume(self.server.life);
        }
        for site in 0..self.sites.len() {
            self.sites[site].frozen_until = 0;
            self.sites[site].sick_until = 0;
            let plan = &self.sites[site].plan;
            if plan.ignores_cancels || plan.ignores_limits || self.sites[site].impostor {
                let plan = &mut self.sites[site].plan;
                plan.ignores_cancels = false;
                plan.ignores_limits = false;
                self.kill(site);
            }
        }
        for conn in self.links.keys().copied().collect::<Vec<_>>() {
            let Some(link) = self.links.get_mut(&conn) else { continue };
            link.up.held_until = 0;
            link.down.held_until = 0;
            if link.up.dead || link.down.dead {
                self.cut(conn);
            }
        }
        if self.server.stopping || self.server.fleet.is_none() {
            // It is about to start again anyway; its first generation is the healed one.
            self.topology = self.healed_topology();
            self.server.heal_on_boot = true;
        } else {
            self.heal_server();
        }
    }

    /// Every worker is wanted, with all that it offers, and no person stands in its way.
    pub(crate) fn heal_server(&mut self) {
        self.topology = self.healed_topology();
        self.tell(Event::Desired(Arc::clone(&self.topology)));
        self.uncordon_all();
    }
}
