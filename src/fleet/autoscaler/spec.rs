//! What the topology says of a pool: the template of its workers, and the numbers that it is scaled
//! by. Plain values; the rule is in `rule.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::ids::{PoolName, WorkerName};
use crate::fleet::time::Wall;
use crate::fleet::topology::{Change, InterfaceKind, LaunchSpec, WorkerSpec};

/// Where a pool's instances come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// The server starts them as programs of its own, on free ports.
    Process,
    /// A command is told how many there ought to be.
    Exec,
    /// An HTTP endpoint is told how many there ought to be.
    Webhook,
    /// Somebody else asks how many there ought to be; instances come and go by dialling in.
    External,
}

impl ProviderKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Process, Self::Exec, Self::Webhook, Self::External];

    /// The word in the file and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Exec => "exec",
            Self::Webhook => "webhook",
            Self::External => "external",
        }
    }

    /// Whether somebody must be told when instances are to go.
    pub(super) fn is_hook(self) -> bool {
        match self {
            Self::Exec | Self::Webhook => true,
            Self::Process | Self::External => false,
        }
    }
}

/// How a hook is called.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSpec {
    /// `exec`: the program and its arguments; empty else.
    pub command: Vec<String>,
    /// `exec`: environment beside the few names that every program gets.
    pub env: BTreeMap<String, String>,
    /// `webhook`: where the document is posted; empty else.
    pub url: String,
    /// `webhook`: the key of the signature.
    pub secret: String,
    /// How long one call may take.
    pub timeout: Duration,
}

impl std::fmt::Debug for HookSpec {
    /// Without the secret and the environment's values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.env.keys().collect();
        f.debug_struct("HookSpec")
            .field("command", &self.command)
            .field("env", &names)
            .field("url", &self.url)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A minimum that holds at certain times, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledMin {
    /// On which days it begins: bit 0 is Monday.
    pub days: u8,
    /// Minutes after midnight at which it begins.
    pub from: u16,
    /// Minutes after midnight at which it ends; not after `from` means on the next day.
    pub to: u16,
    /// The minimum.
    pub min: u32,
}

const MINUTE_MILLIS: i64 = 60_000;
const DAY_MINUTES: i64 = 24 * 60;

impl ScheduledMin {
    /// Whether it holds at this time.
    pub fn holds(&self, at: Wall) -> bool {
        let minutes = at.0.div_euclid(MINUTE_MILLIS);
        let (day, minute) = (minutes.div_euclid(DAY_MINUTES), minutes.rem_euclid(DAY_MINUTES));
        // The first day of 1970 was a Thursday.
        let begins_on = |day: i64| self.days >> (day + 3).rem_euclid(7) & 1 == 1;
        let (from, to) = (i64::from(self.from), i64::from(self.to));
        if from < to {
            begins_on(day) && (from..to).contains(&minute)
        } else {
            (begins_on(day) && minute >= from) || (begins_on(day - 1) && minute < to)
        }
    }
}

/// The numbers that a pool is scaled by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// Instances at least.
    pub min: u32,
    /// Instances at most.
    pub max: u32,
    /// The share of its slots that demand ought to fill, in hundredths.
    pub target_load_percent: u32,
    /// Instances beyond what demand asks for.
    pub spare: u32,
    /// How long more must have been wanted before there is more.
    pub upscale_delay: Duration,
    /// How long less must have been wanted before there is less.
    pub downscale_delay: Duration,
    /// How long nothing must have been wanted before the last instance goes.
    pub downscale_to_zero_delay: Duration,
    /// Instances that come or go at once, at most; more follow after [`Scaling::STEP_EVERY`].
    pub max_step: Option<u32>,
    /// Minimums that hold at certain times.
    pub schedule: Vec<ScheduledMin>,
    /// Whether the size stays as it is.
    pub paused: bool,
    /// Where instances come from.
    pub provider: ProviderKind,
    /// How the provider is told, where it is.
    pub hook: Option<HookSpec>,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            min: 0,
            max: 1,
            target_load_percent: 75,
            spare: 0,
            upscale_delay: Duration::ZERO,
            downscale_delay: Duration::from_secs(300),
            downscale_to_zero_delay: Duration::from_secs(15 * 60),
            max_step: None,
            schedule: Vec::new(),
            paused: false,
            provider: ProviderKind::Process,
            hook: None,
        }
    }
}

impl Scaling {
    /// The time between two steps of `max_step`.
    pub const STEP_EVERY: Duration = Duration::from_secs(15);

    /// The minimum at this time, never above the maximum.
    pub fn min_at(&self, at: Wall) -> u32 {
        let scheduled = self.schedule.iter().filter(|entry| entry.holds(at)).map(|entry| entry.min).max();
        self.min.max(scheduled.unwrap_or(0)).min(self.max)
    }
}

/// One pool that ought to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Its identity.
    pub name: PoolName,
    /// The name it had before; its instances carry over.
    pub formerly: Option<PoolName>,
    /// The template of its workers. Its name means nothing; `{index}` and `{port}` in its endpoint,
    /// labels, command and environment stand for each instance's own.
    pub template: WorkerSpec,
    /// The numbers.
    pub scaling: Scaling,
}

impl PoolSpec {
    /// The name of the instance with this index.
    pub fn worker_name(&self, index: u32) -> WorkerName {
        format!("{}-{index}", self.name).into()
    }

    /// The entry of one instance. `port` is what `{port}` stands for.
    pub fn instance(&self, name: WorkerName, index: u32, port: Option<u16>) -> WorkerSpec {
        let index = index.to_string();
        let port = port.map(|port| port.to_string()).unwrap_or_default();
        let filled = |text: &str| text.replace("{index}", &index).replace("{port}", &port);
        let template = &self.template;
        WorkerSpec {
            name,
            formerly: None,
            origin: crate::fleet::Origin::Pool,
            pool: Some(self.name.clone()),
            endpoint: template.endpoint.as_deref().map(|endpoint| filled(endpoint).into()),
            labels: template
                .labels
                .iter()
                .map(|(label, value)| (label.clone(), Arc::from(filled(value))))
                .collect(),
            launch: template.launch.as_ref().map(|launch| LaunchSpec {
                command: launch.command.iter().map(|word| filled(word)).collect(),
                env: launch.env.iter().map(|(name, value)| (name.clone(), filled(value))).collect(),
            }),
            ..template.clone()
        }
    }

    /// Whether its instances are mock twins, which need neither process nor hook.
    pub fn is_mock(&self) -> bool {
        self.template.interface == InterfaceKind::Mock
    }

    /// Whether instances are only ever made by dialling in.
    pub(super) fn dials_in(&self) -> bool {
        !self.is_mock() && self.template.endpoint.is_none() && self.template.launch.is_none()
    }

    /// Whether the provider must be asked before there can be more instances.
    pub(super) fn asks(&self) -> bool {
        !self.is_mock() && self.scaling.provider != ProviderKind::External
    }

    /// Whether an instance takes a port of the server's machine.
    pub fn wants_port(&self) -> bool {
        let holds = |text: &str| text.contains("{port}");
        self.template.endpoint.as_deref().is_some_and(holds)
            || self.template.launch.as_ref().is_some_and(|launch| {
                launch.command.iter().any(|word| holds(word)) || launch.env.values().any(|value| holds(value))
            })
    }
}

/// What one pool's entry changes into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolChange {
    /// It is new.
    Added,
    /// Another name for a pool that goes on with its instances.
    Renamed {
        /// The old name.
        from: PoolName,
    },
    /// Its numbers, or what changes in place at its instances.
    Updated {
        /// One phrase per field, such as `max 4→8`.
        fields: Vec<String>,
    },
    /// Its template: instances are replaced one at a time.
    Replaced {
        /// One phrase per field.
        fields: Vec<String>,
    },
    /// It is gone: its instances drain.
    Removed,
}

impl PoolSpec {
    /// What differs between two entries; `None` when nothing that matters does.
    pub fn change(was: &Self, is: &Self) -> Option<PoolChange> {
        let mut fields = scaling_changes(&was.scaling, &is.scaling);
        let named = |spec: &Self| WorkerSpec { pool: None, name: "template".into(), ..spec.template.clone() };
        match WorkerSpec::change(&named(was), &named(is)) {
            Some(Change::Moved { fields: moved }) => {
                fields.splice(0..0, moved);
                return Some(PoolChange::Replaced { fields });
            }
            Some(Change::Updated { fields: updated }) => fields.extend(updated),
            Some(Change::Added | Change::Renamed { .. } | Change::Removed) | None => {}
        }
        (!fields.is_empty()).then_some(PoolChange::Updated { fields })
    }
}

/// One phrase per number that differs, by its name in the file.
fn scaling_changes(was: &Scaling, is: &Scaling) -> Vec<String> {
    macro_rules! compare {
        ($($field:ident),* $(,)?) => {{
            // A new field that is not listed here does not compile.
            let Scaling { $($field: _,)* hook: _ } = was;
            let mut changes = Vec::new();
            $(if was.$field != is.$field {
                changes.push(format!("{} {:?}→{:?}", stringify!($field), was.$field, is.$field));
            })*
            // Its secrets are not for showing.
            if was.hook != is.hook {
                changes.push("hook".to_owned());
            }
            changes
        }};
    }
    compare!(
        min,
        max,
        target_load_percent,
        spare,
        upscale_delay,
        downscale_delay,
        downscale_to_zero_delay,
        max_step,
        schedule,
        paused,
        provider,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds of a weekday (0 is Monday) of a week in 2026, at a time of day.
    fn at(weekday: i64, hour: i64, minute: i64) -> Wall {
        // 5 January 2026 was a Monday.
        const MONDAY: i64 = 1_767_571_200_000;
        Wall(MONDAY + ((weekday * 24 + hour) * 60 + minute) * MINUTE_MILLIS)
    }

    #[test]
    fn a_scheduled_minimum_holds_on_its_days_between_its_times() {
        let office = ScheduledMin { days: 0b001_1111, from: 8 * 60, to: 18 * 60, min: 3 };
        assert!(office.holds(at(0, 8, 0)) && office.holds(at(4, 17, 59)));
        assert!(!office.holds(at(0, 7, 59)) && !office.holds(at(0, 18, 0)) && !office.holds(at(5, 12, 0)));
    }

    #[test]
    fn a_schedule_over_midnight_ends_on_the_day_after_it_began() {
        let night = ScheduledMin { days: 1 << 4, from: 22 * 60, to: 2 * 60, min: 1 };
        assert!(night.holds(at(4, 23, 0)) && night.holds(at(5, 1, 59)));
        assert!(!night.holds(at(4, 1, 0)) && !night.holds(at(5, 2, 0)) && !night.holds(at(5, 23, 0)));
        let scaling = Scaling { min: 0, max: 4, schedule: vec![night], ..Scaling::default() };
        assert_eq!([scaling.min_at(at(4, 23, 0)), scaling.min_at(at(5, 3, 0))], [1, 0]);
    }
}
