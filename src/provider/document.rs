//! The document that every hook gets: what is wanted, and why.

use serde::Serialize;

use crate::fleet::{PoolSpec, Wanted};

/// What a hook is told, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Document<'a> {
    /// The pool.
    pub pool: &'a str,
    /// Instances as far as the hook was told before.
    pub from: u32,
    /// Instances that there ought to be.
    pub to: u32,
    /// Why: `backlog`, `utilisation`, `schedule`, `manual` or `removed_from_config`.
    pub reason: &'a str,
    /// The names that new instances are to register under.
    pub added: Vec<&'a str>,
    /// Instances that may be taken away: they are idle and disconnected.
    pub victims: Vec<&'a str>,
    /// Numbers the calls of one pool since the server started.
    pub call: u64,
}

impl<'a> Document<'a> {
    /// The document of a call.
    pub fn of(pool: &'a PoolSpec, wanted: &'a Wanted) -> Self {
        Self {
            pool: pool.name.as_str(),
            from: wanted.from,
            to: wanted.to,
            reason: wanted.reason,
            added: wanted.added.iter().map(|name| name.as_str()).collect(),
            victims: wanted.victims.iter().map(|name| name.as_str()).collect(),
            call: wanted.call,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and numbers have a JSON form")
    }
}
