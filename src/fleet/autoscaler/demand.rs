//! How much work a pool is asked for: what waits, counted by how long such tasks usually take, and
//! what came in, for those who want to judge another policy by it later.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::WORK_HORIZON;
use crate::fleet::ids::Capability;

/// Capabilities whose execution times are known at most; others count as a slot a task.
const MAX_KNOWN: usize = 1_000;

/// The share of a new execution time in the average, as one part of so many.
const SMOOTHING: u32 = 8;

/// What is known of one capability's tasks.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The moving average of execution times.
    usual: Option<Duration>,
    arrived: u64,
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub(super) struct Demands(BTreeMap<Capability, Known>);

impl Demands {
    pub(super) fn arrived(&mut self, capability: &Capability) {
        if let Some(known) = self.known(capability) {
            known.arrived += 1;
        }
    }

    pub(super) fn ended(&mut self, capability: &Capability, took: Duration) {
        let Some(known) = self.known(capability) else { return };
        known.usual = Some(match known.usual {
            Some(usual) => usual - usual / SMOOTHING + took / SMOOTHING,
            None => took,
        });
    }

    /// The usual execution time.
    pub(super) fn usual(&self, capability: &Capability) -> Option<Duration> {
        self.0.get(capability)?.usual
    }

    /// What has arrived since this was last asked, with the usual execution time.
    pub(super) fn take_arrivals(&mut self) -> Vec<(Capability, u64, Option<Duration>)> {
        let arrived = self.0.iter_mut().filter(|(_, known)| known.arrived > 0);
        arrived.map(|(name, known)| (name.clone(), std::mem::take(&mut known.arrived), known.usual)).collect()
    }

    fn known(&mut self, capability: &Capability) -> Option<&mut Known> {
        if !self.0.contains_key(capability) {
            if self.0.len() >= MAX_KNOWN {
                return None;
            }
            self.0.insert(capability.clone(), Known::default());
        }
        self.0.get_mut(capability)
    }
}

/// What so many waiting tasks ask for, in thousandths of slots.
pub fn work_of(waiting: u64, usual: Option<Duration>) -> u64 {
    let each = usual.map_or(1_000, |usual| {
        let share = usual.as_micros().saturating_mul(1_000).div_ceil(WORK_HORIZON.as_micros());
        u64::try_from(share).unwrap_or(u64::MAX).clamp(1, 1_000)
    });
    waiting.saturating_mul(each)
}

/// What a pool was asked for between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DemandSample {
    /// Tasks that came in.
    pub arrived: u64,
    /// Their execution time together, as far as it is known.
    pub work: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tasks_ask_for_a_share_of_a_slot_and_unknown_ones_for_a_whole_one() {
        assert_eq!(work_of(200, None), 200_000);
        assert_eq!(work_of(200, Some(Duration::from_secs(1))), 20_000);
        assert_eq!(work_of(3, Some(Duration::from_secs(60))), 3_000);
        assert_eq!(work_of(1, Some(Duration::from_micros(10))), 1);
    }

    #[test]
    fn the_usual_time_follows_what_is_seen() {
        let mut demands = Demands::default();
        let name = Capability::from("a.b");
        demands.ended(&name, Duration::from_secs(8));
        assert_eq!(demands.usual(&name), Some(Duration::from_secs(8)));
        demands.ended(&name, Duration::from_secs(16));
        assert_eq!(demands.usual(&name), Some(Duration::from_secs(9)));
    }
}
