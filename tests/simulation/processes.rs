//! The processes of the simulated workers: they start, dial in, are launched and halted, say goodbye
//! and die. What they do while they run is in `workers.rs`.

use std::time::Duration;

use rollcall::fleet::*;

use super::links::Frame;
use super::workers::Site;
use super::world::{Happening, Process, World};

impl World {
    /// A process starts.
    pub(crate) fn start(&mut self, site: usize, after: u32) {
        let this = &mut self.sites[site];
        if this.up || this.incarnation != after || (this.plan.launched && this.wanted.is_none()) {
            return;
        }
        this.up = true;
        this.incarnation += 1;
        this.frozen_until = 0;
        this.sick_until = 0;
        this.leaving = false;
        this.impostor = false;
        this.store = None;
        this.retry_after = None;
        if this.plan.addresses.is_empty() {
            let process = this.process(site);
            self.soon(Happening::DialIn(process), Duration::from_millis(1));
        }
    }

    /// A process dies: what it held is gone, its connection ends.
    pub(crate) fn kill(&mut self, site: usize) {
        if !self.sites[site].up {
            return;
        }
        if let Some(conn) = self.sites[site].link {
            self.drop_worker_side(conn);
        }
        let this = &mut self.sites[site];
        this.up = false;
        this.link = None;
        this.held.clear();
        this.sessions.clear();
        let (after, wanted) = (this.incarnation, this.wanted.clone());
        if std::mem::take(&mut this.halting) {
            this.wanted = None;
        }
        if let Some(worker) = wanted {
            // The supervisor sees its child end, whether or not the connection has ended yet.
            let wait = self.dice.span(Duration::from_micros(100), Duration::from_millis(500));
            self.soon(Happening::Hear(self.server.life, Event::ProcessGone(worker)), wait);
        }
        let wait = self.dice.span(Duration::from_millis(600), Duration::from_secs(40));
        self.soon(Happening::Start(site, after), wait);
    }

    /// A process that was meant to die does.
    pub(crate) fn die(&mut self, process: Process) {
        if self.sites[process.site].runs(process) {
            self.kill(process.site);
        }
    }

    /// The server wants a worker's program to run.
    pub(crate) fn launch(&mut self, worker: &WorkerName) {
        let entries = [&self.topology.workers, &self.pools.entries];
        let entry = entries.into_iter().find_map(|entries| entries.get(worker));
        let Some(endpoint) = entry.and_then(|spec| spec.endpoint.clone()) else { return };
        let fits = |site: &Site| site.plan.launched && site.plan.addresses.contains(&endpoint);
        let found = self.sites.iter().position(fits);
        let Some(site) = found.or_else(|| self.place_for(worker, &endpoint)) else { return };
        self.sites[site].wanted = Some(worker.clone());
        self.sites[site].halting = false;
        let after = self.sites[site].incarnation;
        let wait = self.dice.span(Duration::from_millis(5), Duration::from_secs(1));
        self.soon(Happening::Start(site, after), wait);
    }

    /// The server wants a worker's program stopped.
    pub(crate) fn halt(&mut self, worker: &WorkerName) {
        let Some(site) = self.sites.iter().position(|site| site.wanted.as_ref() == Some(worker)) else {
            let event = Event::ProcessGone(worker.clone());
            self.soon(Happening::Hear(self.server.life, event), Duration::from_millis(1));
            return;
        };
        if self.sites[site].up {
            self.sites[site].halting = true;
            let process = self.sites[site].process(site);
            let wait = self.dice.span(Duration::from_millis(1), Duration::from_secs(5));
            self.soon(Happening::Die(process), wait);
        } else {
            let event = Event::ProcessGone(worker.clone());
            self.soon(Happening::Hear(self.server.life, event), Duration::from_millis(1));
            self.sites[site].wanted = None;
        }
    }

    /// A worker dials in.
    pub(crate) fn dial_in(&mut self, process: Process) {
        let site = process.site;
        if !self.sites[site].runs(process) || self.sites[site].link.is_some() {
            return;
        }
        let frozen = self.sites[site].frozen_until > self.time;
        if self.server.fleet.is_none() || self.server.stopping || frozen {
            let wait = self.dice.span(Duration::from_millis(100), Duration::from_secs(10));
            self.soon(Happening::DialIn(process), wait);
            return;
        }
        let claims = self.sites[site].plan.name.clone();
        self.connect(site, None, claims);
    }

    /// A process has lost its connection.
    pub(crate) fn lost_link(&mut self, process: Process, conn: ConnId) {
        let site = &mut self.sites[process.site];
        if !site.runs(process) || site.link != Some(conn) {
            return;
        }
        site.link = None;
        if site.impostor {
            // One process under two names is nothing that slots could be kept honest for.
            self.soon(Happening::Die(process), Duration::ZERO);
            return;
        }
        if site.plan.addresses.is_empty() {
            let told = site.retry_after.take();
            let wait = self.dice.span(Duration::from_millis(20), Duration::from_secs(10));
            self.soon(Happening::DialIn(process), told.unwrap_or(wait));
        }
    }

    /// A worker that said goodbye leaves once it has nothing left, or has waited long enough.
    pub(crate) fn leave(&mut self, process: Process) {
        if self.sites[process.site].runs(process) && self.sites[process.site].leaving {
            self.kill(process.site);
        }
    }

    /// A worker says goodbye.
    pub(crate) fn says_goodbye(&mut self, site: usize) {
        let Some(conn) = self.open_link(site) else { return };
        let after = self.dice.span(Duration::from_millis(100), Duration::from_secs(10));
        let retry_after = self.dice.chance(500).then_some(after);
        let process = self.sites[site].process(site);
        self.sites[site].leaving = true;
        self.send_up(conn, Frame::Report(Report::Goodbye { reason: "simulated".into(), retry_after }));
        let wait = self.dice.span(Duration::from_millis(100), Duration::from_secs(20));
        self.soon(Happening::Leave(process), wait);
    }
}
