//! What one topology would change into another, and how far that reaches: which sockets close,
//! which tasks are touched, which capabilities nobody offers any more. Pure; `rollcall plan`, the
//! API and the log line of a reload all say it with these words.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::Problem;
use crate::fleet::{
    Capability, Change, Diff, Generation, PoolChange, PoolName, Topology, WorkerName, WorkerView,
};

/// How many changes the one-line form names before it only counts them.
const NAMED_CHANGES: usize = 20;

/// A diff in the order and the words that people read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Changes {
    /// New workers.
    pub added: Vec<WorkerName>,
    /// Workers that go on under another name.
    pub renamed: Vec<Renamed>,
    /// Workers whose limits, labels or capabilities change in place.
    pub updated: Vec<Altered>,
    /// Workers whose connection is replaced.
    pub moved: Vec<Altered>,
    /// Workers that drain and leave.
    pub removed: Vec<Leaving>,
    /// Pools that change, one phrase each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
    /// Settings that change, one phrase each.
    pub settings: Vec<String>,
    /// How many workers are the same.
    pub unchanged: usize,
}

/// A worker that goes on under another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Renamed {
    /// The new name.
    pub worker: WorkerName,
    /// The old one.
    pub from: WorkerName,
}

/// A worker whose entry changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Altered {
    /// Which.
    pub worker: WorkerName,
    /// One phrase per field, such as `slots 4→8`.
    pub fields: Vec<String>,
    /// How many tasks it runs.
    pub tasks: u32,
}

/// A worker that leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leaving {
    /// Which.
    pub worker: WorkerName,
    /// How many tasks it still runs.
    pub tasks: u32,
}

/// How far a change reaches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Reach {
    /// Connected workers whose connection is closed once it has drained.
    pub sockets_closed: Vec<WorkerName>,
    /// Tasks that run on them; they may finish.
    pub tasks_touched: u32,
    /// Capabilities that are offered now and by no worker then.
    pub capabilities_lost: Vec<Capability>,
}

/// What a file would do, before it does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The generation that it would become; the present one when nothing changes.
    pub generation: Generation,
    /// The log line that applying it would write.
    pub summary: String,
    /// What changes.
    pub changes: Changes,
    /// How far that reaches.
    pub reach: Reach,
    /// Why a reload would not take this file, although each line of it is right.
    pub refusals: Vec<Problem>,
    /// What is odd, but works.
    pub warnings: Vec<Problem>,
}

/// What turns `old` into `new`. `workers` says what is connected and busy; without it (a dry run
/// with no server) every removed or moved worker counts as connected and idle. Sorted by name.
pub fn plan(old: &Topology, new: &Topology, workers: Option<&[Arc<WorkerView>]>) -> Plan {
    let diff = Diff::between(old, new);
    let views = Views(workers);
    let changes = views.changes(&diff);
    let generation = Generation(old.generation.0 + u64::from(!diff.is_empty()));
    let closing =
        || changes.moved.iter().map(|it| &it.worker).chain(changes.removed.iter().map(|it| &it.worker));
    let reach = Reach {
        sockets_closed: closing().filter(|name| views.connected(name)).cloned().collect(),
        tasks_touched: closing().map(|name| views.tasks(name)).sum(),
        capabilities_lost: lost(old, new, &views),
    };
    Plan {
        generation,
        summary: changes.line(generation),
        changes,
        reach,
        refusals: Vec::new(),
        warnings: Vec::new(),
    }
}

/// The log line of a generation, for those who only have its diff; see [`Changes::line`].
pub fn describe(generation: Generation, diff: &Diff, workers: Option<&[Arc<WorkerView>]>) -> String {
    Changes::of(diff, workers).line(generation)
}

impl Changes {
    /// A diff, with what each worker runs at the moment. `workers` is sorted by name.
    pub fn of(diff: &Diff, workers: Option<&[Arc<WorkerView>]>) -> Self {
        Views(workers).changes(diff)
    }

    /// The log line of a generation: `generation 7: +browser-3, ~python-1 slots 4→8, -old (draining
    /// 2 tasks), 11 unchanged`.
    pub fn line(&self, generation: Generation) -> String {
        let mut items: Vec<String> = self.added.iter().map(|name| format!("+{name}")).collect();
        items.extend(self.renamed.iter().map(|it| format!("~{} (was {})", it.worker, it.from)));
        items.extend(self.updated.iter().map(|it| format!("~{} {}", it.worker, it.fields.join(" "))));
        items.extend(
            self.moved
                .iter()
                .map(|it| format!("~{} {}{}", it.worker, it.fields.join(" "), draining(it.tasks))),
        );
        items.extend(self.removed.iter().map(|it| format!("-{}{}", it.worker, draining(it.tasks))));
        items.extend(self.pools.iter().cloned());
        items.extend(self.settings.iter().cloned());
        let hidden = items.len().saturating_sub(NAMED_CHANGES);
        items.truncate(NAMED_CHANGES);
        if hidden > 0 {
            items.push(format!("{hidden} more changes"));
        }
        items.push(format!("{} unchanged", self.unchanged));
        format!("generation {generation}: {}", items.join(", "))
    }
}

fn draining(tasks: u32) -> String {
    match tasks {
        0 => String::new(),
        1 => " (draining 1 task)".to_owned(),
        tasks => format!(" (draining {tasks} tasks)"),
    }
}

/// What is known of the workers at the moment, sorted by name.
struct Views<'a>(Option<&'a [Arc<WorkerView>]>);

impl<'a> Views<'a> {
    fn get(&self, name: &WorkerName) -> Option<&'a WorkerView> {
        let all = self.0?;
        let at = all.binary_search_by(|view| view.name.cmp(name)).ok()?;
        all.get(at).map(|view| &**view)
    }

    fn tasks(&self, name: &WorkerName) -> u32 {
        self.get(name).map_or(0, |view| view.slots_used)
    }

    fn connected(&self, name: &WorkerName) -> bool {
        self.0.is_none() || self.get(name).is_some_and(|view| view.connection.is_some())
    }

    fn changes(&self, diff: &Diff) -> Changes {
        let mut changes = Changes {
            settings: diff.settings.clone(),
            pools: diff.pools.iter().map(|(name, change)| self.pool(name, change)).collect(),
            unchanged: diff.unchanged,
            ..Changes::default()
        };
        for (name, change) in &diff.workers {
            let worker = name.clone();
            let tasks = self.tasks(name);
            match change {
                Change::Added => changes.added.push(worker),
                Change::Renamed { from } => changes.renamed.push(Renamed { worker, from: from.clone() }),
                Change::Updated { fields } => {
                    changes.updated.push(Altered { worker, fields: fields.clone(), tasks });
                }
                Change::Moved { fields } => {
                    changes.moved.push(Altered { worker, fields: fields.clone(), tasks });
                }
                Change::Removed => changes.removed.push(Leaving { worker, tasks }),
            }
        }
        changes
    }

    /// A pool's change in a phrase.
    fn pool(&self, name: &PoolName, change: &PoolChange) -> String {
        let workers = self.0.into_iter().flatten().filter(|view| view.pool.as_ref() == Some(name));
        let (mut count, mut tasks) = (0, 0);
        for view in workers {
            (count, tasks) = (count + 1, tasks + view.slots_used);
        }
        match change {
            PoolChange::Added => format!("+pool {name}"),
            PoolChange::Renamed { from } => format!("~pool {name} (was {from})"),
            PoolChange::Updated { fields } => format!("~pool {name} {}", fields.join(" ")),
            PoolChange::Replaced { fields } => {
                format!("~pool {name} {} (replacing its {count} workers one at a time)", fields.join(" "))
            }
            PoolChange::Removed if count == 0 => format!("-pool {name}"),
            PoolChange::Removed => format!("-pool {name} with {count} workers{}", draining(tasks)),
        }
    }

    /// All that the workers of a topology offer. A worker whose entry states nothing offers what
    /// it registered last; `None` if one has never registered, for it may offer anything.
    fn offers(&self, topology: &Topology) -> Option<BTreeSet<Capability>> {
        let mut offers = BTreeSet::new();
        for pool in topology.pools.values() {
            match &pool.template.capabilities {
                Some(stated) => offers.extend(stated.iter().cloned()),
                None => {
                    let view = self.0?.iter().find(|view| view.pool.as_ref() == Some(&pool.name))?;
                    offers.extend(view.capabilities.iter().map(|offer| offer.name.clone()));
                }
            }
        }
        for (name, spec) in &topology.workers {
            match &spec.capabilities {
                Some(stated) => offers.extend(stated.iter().cloned()),
                None => {
                    let former = spec.formerly.as_ref().and_then(|from| self.get(from));
                    let view = self.get(name).or(former).filter(|view| !view.capabilities.is_empty())?;
                    offers.extend(view.capabilities.iter().map(|offer| offer.name.clone()));
                }
            }
        }
        Some(offers)
    }
}

/// Capabilities (patterns too) that `old` offers and `new` does not.
fn lost(old: &Topology, new: &Topology, views: &Views<'_>) -> Vec<Capability> {
    let Some(after) = views.offers(new) else { return Vec::new() };
    // What is not known of before cannot be missed afterwards.
    let known = Topology {
        workers: old
            .workers
            .iter()
            .filter(|(name, spec)| {
                spec.capabilities.is_some()
                    || views.get(name).is_some_and(|view| !view.capabilities.is_empty())
            })
            .map(|(name, spec)| (name.clone(), spec.clone()))
            .collect(),
        pools: old
            .pools
            .iter()
            .filter(|(_, spec)| spec.template.capabilities.is_some())
            .map(|(name, spec)| (name.clone(), spec.clone()))
            .collect(),
        ..Topology::default()
    };
    let before = views.offers(&known).unwrap_or_default();
    let stars: HashSet<&str> = after.iter().filter_map(|it| it.as_str().strip_suffix('*')).collect();
    let covered = |asked: &Capability| {
        let text = asked.as_str();
        after.contains(asked)
            || (0..=text.len()).any(|end| text.get(..end).is_some_and(|prefix| stars.contains(prefix)))
    };
    before.into_iter().filter(|capability| !covered(capability)).collect()
}

impl fmt::Display for Plan {
    /// The summary, then a line for each thing that it reaches.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)?;
        let reach = &self.reach;
        if !reach.sockets_closed.is_empty() {
            let names: Vec<_> =
                reach.sockets_closed.iter().take(NAMED_CHANGES).map(|it| it.as_str()).collect();
            let more = reach.sockets_closed.len() - names.len();
            write!(f, "\nconnections closed after draining: {}", names.join(", "))?;
            if more > 0 {
                write!(f, " and {more} more")?;
            }
        }
        if reach.tasks_touched > 0 {
            write!(f, "\ntasks that finish on a worker that leaves or moves: {}", reach.tasks_touched)?;
        }
        if !reach.capabilities_lost.is_empty() {
            let names: Vec<_> =
                reach.capabilities_lost.iter().take(NAMED_CHANGES).map(|it| it.as_str()).collect();
            let more = reach.capabilities_lost.len() - names.len();
            write!(f, "\ncapabilities left without a worker: {}", names.join(", "))?;
            if more > 0 {
                write!(f, " and {more} more")?;
            }
        }
        for refusal in &self.refusals {
            write!(f, "\nwould be refused: {refusal}")?;
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}
