//! Inputs, checked before dispatch against the JSON Schemas that workers registered. Schemas come
//! from workers and may be hostile, so that everything here is bounded: what cannot be checked
//! cheaply is not checked, and the worker judges it, as it does in any case.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Semaphore;

use crate::fleet::{Capability, Offer, Payload};

mod catalogue;
mod checker;
mod weight;

use catalogue::Catalogue;
use checker::{Checker, Compiled, Effort};

/// Schemas compiled, and large inputs checked, at the same time.
const AT_ONCE: usize = 2;

/// One thing that is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct InputError {
    /// Where: a JSON Pointer into the input; empty for the input itself.
    pub pointer: String,
    /// What, for people; without the value, which may be large or a secret.
    pub message: String,
}

/// An input that the workers of its capability would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidInput {
    /// What was asked for.
    pub capability: Capability,
    /// What is wrong with it, the first things only.
    pub errors: Vec<InputError>,
}

impl fmt::Display for InvalidInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the input is not what {} takes", self.capability)?;
        let Some(first) = self.errors.first() else { return Ok(()) };
        let place = if first.pointer.is_empty() { "the input" } else { &first.pointer };
        write!(f, ": {place}: {}", first.message)?;
        match self.errors.len() - 1 {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

/// What workers say about inputs.
#[derive(Debug)]
pub struct Schemas {
    catalogue: RwLock<Catalogue>,
    compiled: Mutex<Compiled>,
    heavy: Arc<Semaphore>,
}

impl Default for Schemas {
    fn default() -> Self {
        Self {
            catalogue: RwLock::default(),
            compiled: Mutex::default(),
            heavy: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Schemas {
    /// A worker offers something else than before; nothing, where it is new or gone.
    pub fn changed(&self, before: &[Offer], after: &[Offer]) {
        self.catalogue.write().unwrap_or_else(PoisonError::into_inner).replace(before, after);
    }

    /// The schema that all workers of a capability gave, if they did.
    pub fn agreed(&self, capability: &Capability) -> Option<Payload> {
        self.catalogue.read().unwrap_or_else(PoisonError::into_inner).agreed(capability)
    }

    /// Checks an input. Small ones are checked here and now, others on a thread of their own.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`InvalidInput`], where all workers of the capability gave the same schema and it says so.
    pub async fn check(&self, capability: &Capability, input: &Payload) -> Result<(), InvalidInput> {
        let Some(schema) = self.agreed(capability) else { return Ok(()) };
        let Some(checker) = self.checker(capability, schema).await else { return Ok(()) };
        let errors = match checker.effort(input.as_str().len()) {
            Effort::Small => checker.judge(input.as_str(), true),
            Effort::Large => {
                let input = input.clone();
                self.aside(move || checker.judge(input.as_str(), false)).await.unwrap_or_default()
            }
            Effort::TooMuch => return Ok(()),
        };
        if errors.is_empty() {
            return Ok(());
        }
        Err(InvalidInput { capability: capability.clone(), errors })
    }

    /// The schema made ready, if it is one that can be checked here.
    async fn checker(&self, capability: &Capability, schema: Payload) -> Option<Arc<Checker>> {
        if let Some(known) = self.compiled().get(&schema) {
            return known;
        }
        let text = schema.clone();
        let made = self.aside(move || Checker::of(text.as_str())).await?;
        let made = match made {
            Ok(checker) => Some(Arc::new(checker)),
            Err(unfit) => {
                tracing::info!(%capability, "inputs are left to the workers to check: the schema {unfit}");
                None
            }
        };
        self.compiled().keep(schema, made.clone());
        made
    }

    fn compiled(&self) -> std::sync::MutexGuard<'_, Compiled> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on another thread; few do so at once. `None` where the work panicked.
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let permit = Arc::clone(&self.heavy).acquire_owned().await.ok()?;
        let worked = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, even if nobody waits for it any more.
            let _permit = permit;
            work()
        });
        worked.await.inspect_err(|error| tracing::error!(%error, "a check of an input failed")).ok()
    }
}

#[cfg(test)]
mod tests;
