//! Record and replay: the core's inputs as plain values, one a line, and the loop that feeds them
//! to a new core. The same lines always make the same decisions, so a recording is a reproduction.

use serde::{Deserialize, Serialize};

use super::{Effect, Event, Fleet, Now, Record, StoreId, Term};

/// One line of a recording. The first is a `Start`, all others are `Input`s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Line {
    /// How the core began.
    Start(Box<Start>),
    /// What it was told next.
    Input(Input),
}

/// What a core begins with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The opening of the store.
    pub term: Term,
    /// The seed of its draws.
    pub seed: u64,
    /// The store's name.
    pub store: StoreId,
    /// What it recovered from, and when; `None` for a core that began empty.
    pub recovered: Option<Recovered>,
}

/// What a core found in its store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// When it began.
    pub now: Now,
    /// What the journal had kept.
    pub records: Vec<Record>,
}

/// One call of [`Fleet::handle`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// When.
    pub now: Now,
    /// What happened.
    pub event: Event,
}

impl Start {
    /// The core as it began.
    pub fn begin(&self) -> Fleet {
        match &self.recovered {
            None => Fleet::new(self.term, self.seed, self.store.clone()),
            Some(found) => {
                Fleet::recover(self.term, self.seed, self.store.clone(), found.now, found.records.clone())
            }
        }
    }
}

/// Runs a recording from its beginning and shows every decision to `see` as it is made.
pub fn replay(
    start: &Start,
    inputs: impl IntoIterator<Item = Input>,
    mut see: impl FnMut(&Fleet, Now, &[Effect]),
) -> Fleet {
    let mut fleet = start.begin();
    let mut effects = Vec::new();
    for Input { now, event } in inputs {
        effects.clear();
        fleet.handle(now, event, &mut effects);
        see(&fleet, now, &effects);
    }
    fleet
}
