//! TaskQueue: where tasks of one demand wait. Priorities first; within one, fairness keys take
//! turns by deficit round robin (Shreedhar and Varghese 1995, with tasks as the unit); within a
//! key, first in first out.

use std::collections::{BTreeMap, VecDeque};

use super::ids::FairnessKey;
use super::planted::{Planted, planted};
use super::slab::TaskIx;

/// How many priorities there are; 1 goes first.
pub(super) const PRIORITIES: usize = 5;

/// Where a task waits: all that is needed to take it out again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) priority: u8,
    pub(super) key: FairnessKey,
    pub(super) number: u64,
}

#[derive(Debug, Default)]
pub(super) struct TaskQueue {
    lanes: [Lane; PRIORITIES],
    len: usize,
}

#[derive(Debug, Default)]
struct Lane {
    keys: BTreeMap<FairnessKey, Turn>,
    /// Keys with tasks, in the order of their turns.
    order: VecDeque<FairnessKey>,
}

/// One key's tasks and what is left of its turn.
#[derive(Debug, Default)]
struct Turn {
    tasks: BTreeMap<u64, TaskIx>,
    left: u32,
}

fn lane_of(priority: u8) -> usize {
    usize::from(priority).clamp(1, PRIORITIES) - 1
}

impl TaskQueue {
    /// Adds a task. True when its key was not waiting here before.
    pub(super) fn push(&mut self, ticket: &Ticket, task: TaskIx) -> bool {
        let lane = &mut self.lanes[lane_of(ticket.priority)];
        let turn = lane.keys.entry(ticket.key.clone()).or_default();
        let new = turn.tasks.is_empty();
        turn.tasks.insert(ticket.number, task);
        if new {
            lane.order.push_back(ticket.key.clone());
        }
        self.len += 1;
        new
    }

    /// Takes a task out wherever it stands. True when its key waits here no longer.
    pub(super) fn remove(&mut self, ticket: &Ticket) -> bool {
        let lane = &mut self.lanes[lane_of(ticket.priority)];
        let Some(turn) = lane.keys.get_mut(&ticket.key) else { return false };
        if turn.tasks.remove(&ticket.number).is_none() {
            return false;
        }
        self.len -= 1;
        let gone = turn.tasks.is_empty();
        if gone {
            lane.keys.remove(&ticket.key);
            lane.order.retain(|key| *key != ticket.key);
        }
        gone
    }

    /// The priority and number of the task whose turn it is.
    pub(super) fn head(&self) -> Option<(u8, u64)> {
        self.lanes.iter().zip(1u8..).find_map(|(lane, priority)| {
            let turn = lane.keys.get(lane.order.front()?)?;
            Some((priority, *turn.tasks.first_key_value()?.0))
        })
    }

    /// Takes out the task whose turn it is, with the key if it waits here no longer.
    pub(super) fn pop(&mut self, weights: &BTreeMap<FairnessKey, u32>) -> Option<(TaskIx, bool)> {
        let lane = self.lanes.iter_mut().find(|lane| !lane.order.is_empty())?;
        let key = lane.order.front()?.clone();
        let turn = lane.keys.get_mut(&key)?;
        if turn.left == 0 {
            turn.left = weights.get(&key).copied().unwrap_or(1).max(1);
        }
        let (_, task) = turn.tasks.pop_first()?;
        turn.left -= 1;
        self.len -= 1;
        let gone = turn.tasks.is_empty();
        if gone {
            lane.keys.remove(&key);
            lane.order.pop_front();
        } else if turn.left == 0 {
            lane.order.rotate_left(1);
            if planted(Planted::FairnessKeyForgotten) {
                lane.order.pop_back();
            }
        }
        Some((task, gone))
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The longest-waiting task of each key: the oldest of all is among them.
    pub(super) fn heads(&self) -> impl Iterator<Item = TaskIx> {
        self.lanes
            .iter()
            .flat_map(|lane| lane.keys.values())
            .filter_map(|turn| Some(*turn.tasks.first_key_value()?.1))
    }

    /// Every waiting task, for checks.
    pub(super) fn iter(&self) -> impl Iterator<Item = TaskIx> {
        self.lanes.iter().flat_map(|lane| lane.keys.values()).flat_map(|turn| turn.tasks.values().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: u64) -> TaskIx {
        TaskIx(u32::try_from(number).expect("small"))
    }

    fn ticket(priority: u8, key: &str, number: u64) -> Ticket {
        Ticket { priority, key: key.into(), number }
    }

    fn drain(queue: &mut TaskQueue, weights: &BTreeMap<FairnessKey, u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(weights)).map(|(task, _)| task.0).collect()
    }

    #[test]
    fn the_first_priority_goes_first_and_within_it_the_first_come() {
        let mut queue = TaskQueue::default();
        for (number, priority) in (0u64..).zip([3u8, 1, 3, 1, 5]) {
            queue.push(&ticket(priority, "", number), task(number));
        }
        assert_eq!(queue.head(), Some((1, 1)));
        assert_eq!(drain(&mut queue, &BTreeMap::new()), [1, 3, 0, 2, 4]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_flood_of_one_key_does_not_starve_another() {
        let mut queue = TaskQueue::default();
        for number in 0..6 {
            queue.push(&ticket(3, "flood", number), task(number));
        }
        for number in 6..8 {
            queue.push(&ticket(3, "drop", number), task(number));
        }
        assert_eq!(drain(&mut queue, &BTreeMap::new()), [0, 6, 1, 7, 2, 3, 4, 5]);
    }

    #[test]
    fn a_weight_of_two_is_two_tasks_a_turn() {
        let mut queue = TaskQueue::default();
        for number in 0..4 {
            queue.push(&ticket(3, "heavy", number), task(number));
            queue.push(&ticket(3, "light", number + 10), task(number + 10));
        }
        let weights = BTreeMap::from([(FairnessKey::from("heavy"), 2)]);
        assert_eq!(drain(&mut queue, &weights), [0, 1, 10, 2, 3, 11, 12, 13]);
    }

    #[test]
    fn a_task_can_be_taken_out_of_the_middle() {
        let mut queue = TaskQueue::default();
        for number in 0..3 {
            queue.push(&ticket(3, "", number), task(number));
        }
        assert!(!queue.remove(&ticket(3, "", 1)));
        assert!(!queue.remove(&ticket(3, "", 1)));
        assert_eq!(queue.len(), 2);
        assert!(!queue.remove(&ticket(3, "", 0)));
        assert!(queue.remove(&ticket(3, "", 2)));
        assert_eq!(queue.head(), None);
    }
}
