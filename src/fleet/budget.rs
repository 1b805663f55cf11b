//! The retry budget: in ten seconds a capability's retries may be a fifth of its first attempts, plus
//! ten a second (Finagle's RetryBudget). What is beyond it waits until the window has moved on, so
//! that a fleet that fails is not made to fail harder by those who try again.

use std::collections::BTreeMap;

use super::ids::Capability;
use super::slab::TaskIx;
use super::time::Mono;

/// Slots of the window, one second each.
const SLOTS: usize = 10;
/// What a retry costs, in thousandths of a retry, as all that follows.
const RETRY: i64 = 1_000;
/// What a first attempt brings in.
const FIRST: i64 = RETRY / 5;
/// What is there in any case: ten retries for each second of the window.
const RESERVE: i64 = 10 * SLOTS as i64 * RETRY;
const NANOS: u64 = 1_000_000_000;

/// Capabilities told apart; beyond it they share one budget.
const MAX_BUDGETS: usize = 1_000;
/// The budget that is shared.
const OTHER: &str = "other";

/// What came in and was spent in the last ten seconds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Window {
    slots: [i64; SLOTS],
    /// The second that the newest slot stands for.
    second: u64,
}

impl Window {
    fn slot(second: u64) -> usize {
        usize::try_from(second % SLOTS as u64).unwrap_or(0)
    }

    /// Moves on to `now`: what is older than ten seconds counts no more.
    fn roll(&mut self, now: Mono) {
        let second = (now.0 / NANOS).max(self.second);
        for passed in (self.second + 1..=second).rev().take(SLOTS) {
            self.slots[Self::slot(passed)] = 0;
        }
        self.second = second;
    }

    fn balance(&self) -> i64 {
        RESERVE + self.slots.iter().sum::<i64>()
    }

    fn add(&mut self, amount: i64) {
        self.slots[Self::slot(self.second)] += amount;
    }

    fn take(&mut self) -> bool {
        let enough = self.balance() >= RETRY;
        if enough {
            self.add(-RETRY);
        }
        enough
    }

    /// When there is enough for a retry at the latest: once what was spent has left the window.
    fn refills(&self) -> Mono {
        let mut balance = self.balance();
        let mut second = self.second;
        for _ in 0..SLOTS {
            if balance >= RETRY {
                break;
            }
            second += 1;
            balance -= self.slots[Self::slot(second)];
        }
        Mono(second.saturating_mul(NANOS))
    }
}

/// One capability's budget, and the tasks that wait for it in the order in which they came.
#[derive(Debug, Default)]
struct Budget {
    window: Window,
    starved: BTreeMap<u64, TaskIx>,
}

/// All budgets.
#[derive(Debug, Default)]
pub(super) struct RetryBudgets {
    of: BTreeMap<Capability, Budget>,
    next: u64,
}

impl RetryBudgets {
    fn of(&mut self, capability: &Capability, now: Mono) -> &mut Budget {
        if !self.of.contains_key(capability) && self.of.len() >= MAX_BUDGETS {
            self.of.retain(|_, budget| {
                budget.window.roll(now);
                !budget.starved.is_empty() || budget.window.slots != [0; SLOTS]
            });
        }
        let full = self.of.len() >= MAX_BUDGETS && !self.of.contains_key(capability);
        let name = if full { Capability::from(OTHER) } else { capability.clone() };
        let budget = self.of.entry(name).or_default();
        budget.window.roll(now);
        budget
    }

    /// A task was handed over for the first time.
    pub(super) fn earn(&mut self, capability: &Capability, now: Mono) {
        self.of(capability, now).window.add(FIRST);
    }

    /// Takes a retry from the budget, if it has one; those who wait go first.
    pub(super) fn spend(&mut self, capability: &Capability, now: Mono) -> bool {
        let budget = self.of(capability, now);
        budget.starved.is_empty() && budget.window.take()
    }

    /// Lets a task wait for the budget. Returns its place, and when the budget has something again.
    pub(super) fn starve(&mut self, capability: &Capability, task: TaskIx, now: Mono) -> (u64, Mono) {
        self.next += 1;
        let place = self.next;
        let budget = self.of(capability, now);
        budget.starved.insert(place, task);
        (place, budget.window.refills())
    }

    /// A task waits no longer.
    pub(super) fn leave(&mut self, capability: &Capability, place: u64) {
        let own = self.of.get_mut(capability).and_then(|budget| budget.starved.remove(&place));
        if own.is_none()
            && let Some(shared) = self.of.get_mut(&Capability::from(OTHER))
        {
            shared.starved.remove(&place);
        }
    }

    /// The tasks that the budgets have a retry for by now, taken out.
    pub(super) fn feed(&mut self, now: Mono) -> Vec<TaskIx> {
        let mut fed = Vec::new();
        for budget in self.of.values_mut().filter(|budget| !budget.starved.is_empty()) {
            budget.window.roll(now);
            while !budget.starved.is_empty() && budget.window.take() {
                fed.extend(budget.starved.pop_first().map(|(_, task)| task));
            }
        }
        fed
    }

    /// When [`RetryBudgets::feed`] is due.
    pub(super) fn due(&self) -> Option<Mono> {
        self.of
            .values()
            .filter(|budget| !budget.starved.is_empty())
            .map(|budget| budget.window.refills())
            .min()
    }

    /// Whether a task waits at this place.
    pub(super) fn has(&self, place: u64, task: TaskIx) -> bool {
        self.of.values().any(|budget| budget.starved.get(&place) == Some(&task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(millis * 1_000_000)
    }

    fn spent(budgets: &mut RetryBudgets, now: Mono) -> usize {
        std::iter::from_fn(|| budgets.spend(&"a".into(), now).then_some(())).count()
    }

    #[test]
    fn a_hundred_retries_and_a_fifth_of_the_first_attempts_fit_into_ten_seconds() {
        let mut budgets = RetryBudgets::default();
        assert_eq!(spent(&mut budgets, at(500)), 100);
        for _ in 0..49 {
            budgets.earn(&"a".into(), at(900));
        }
        assert_eq!(spent(&mut budgets, at(900)), 9);
        assert_eq!(spent(&mut budgets, at(9_999)), 0);
        assert_eq!(spent(&mut budgets, at(10_000)), 100, "the window has moved on");
        assert!(budgets.spend(&"b".into(), at(10_000)), "each capability has its own");
    }

    #[test]
    fn who_came_first_is_fed_first_and_when_it_was_said() {
        let mut budgets = RetryBudgets::default();
        let capability = Capability::from("a");
        assert_eq!(spent(&mut budgets, at(2_300)), 100);
        let places: Vec<u64> =
            (0..120).map(|task| budgets.starve(&capability, TaskIx(task), at(2_400)).0).collect();
        assert!(!budgets.spend(&capability, at(2_400)));
        assert_eq!(budgets.due(), Some(at(12_000)));
        budgets.leave(&capability, places[0]);
        assert!(!budgets.has(places[0], TaskIx(0)) && budgets.has(places[1], TaskIx(1)));
        assert_eq!(budgets.feed(at(11_999)), []);
        assert_eq!(budgets.feed(at(12_000)), (1..101).map(TaskIx).collect::<Vec<_>>());
        assert!(!budgets.spend(&capability, at(12_000)), "the rest goes first");
        assert_eq!(budgets.due(), Some(at(22_000)));
        assert_eq!(budgets.feed(at(22_000)).len(), 19);
        assert_eq!(budgets.due(), None);
    }

    #[test]
    fn idle_budgets_make_room() {
        let mut budgets = RetryBudgets::default();
        for number in 0..MAX_BUDGETS + 10 {
            budgets.earn(&format!("c.{number}").into(), at(0));
        }
        assert_eq!(budgets.of.len(), MAX_BUDGETS + 1, "the rest shares one");
        budgets.earn(&"new".into(), at(60_000));
        assert_eq!(budgets.of.keys().collect::<Vec<_>>(), [&Capability::from("new")]);
    }
}
