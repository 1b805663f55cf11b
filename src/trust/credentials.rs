//! What each worker, or each worker of a pool, shows and is shown: beside the topology, so that no
//! secret enters the core, its journal or its recordings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rollcall_tls::ClientFiles;

use super::token::{Digest, Token};
use crate::fleet::{PoolName, WorkerName};

/// What one entry says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// The token: shown to a worker that is dialled, asked of one that dials in.
    pub token: Option<Token>,
    /// Whom to believe, and what to show, when the worker is dialled.
    pub tls: ClientFiles,
}

impl Credential {
    /// Whether the entry says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Those of the whole fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    workers: BTreeMap<WorkerName, Arc<Credential>>,
    pools: BTreeMap<PoolName, Arc<Credential>>,
    hooks: BTreeMap<PoolName, ClientFiles>,
    known: BTreeSet<Digest>,
}

impl Credentials {
    /// Takes a worker's; what says nothing is left out.
    pub fn worker(&mut self, name: WorkerName, credential: Credential) {
        if !credential.is_empty() {
            self.known.extend(credential.token.as_ref().map(Token::digest));
            self.workers.insert(name, Arc::new(credential));
        }
    }

    /// Takes those of a pool's workers.
    pub fn pool(&mut self, name: PoolName, credential: Credential) {
        if !credential.is_empty() {
            self.known.extend(credential.token.as_ref().map(Token::digest));
            self.pools.insert(name, Arc::new(credential));
        }
    }

    /// Takes what a pool's webhook is spoken to with.
    pub fn webhook(&mut self, pool: PoolName, files: ClientFiles) {
        self.hooks.insert(pool, files);
    }

    /// What a pool's webhook is spoken to with.
    pub fn hook(&self, pool: &PoolName) -> ClientFiles {
        self.hooks.get(pool).cloned().unwrap_or_default()
    }

    /// What the worker of this name shows and is shown.
    pub fn of(&self, worker: &WorkerName) -> Option<&Arc<Credential>> {
        self.workers.get(worker).or_else(|| self.pools.get(&pool_of(worker.as_str())?))
    }

    /// Whether any entry has this token.
    pub fn know(&self, shown: &Digest) -> bool {
        self.known.contains(shown)
    }
}

/// The pool whose instance has this name, if there is such a pool.
pub fn pool_of(worker: &str) -> Option<PoolName> {
    let (pool, index) = worker.rsplit_once('-')?;
    let is_index = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    is_index.then(|| PoolName::from(pool))
}
