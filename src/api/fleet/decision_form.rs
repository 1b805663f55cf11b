//! A decision about a pool, with the formula in numbers and the reason in a sentence.

use serde_json::{Value, json};

use crate::api::http::json::time_text;
use crate::config::spelled;
use crate::fleet::autoscaler::{Direction, Reason};
use crate::fleet::{Decision, Scaling};
use crate::manager::pools::Decided;

/// A decision, and what followed.
pub(super) fn decided(told: &Decided, scaling: &Scaling) -> Value {
    let mut form = decision(&told.decision, scaling);
    form["since"] = time_text(told.since).into();
    form["looks"] = told.looks.into();
    form["hook"] = told.hook.as_ref().map_or(Value::Null, |(outcome, took, detail)| {
        json!({ "outcome": outcome, "seconds": took.as_secs_f64(), "detail": detail })
    });
    form["arrived"] = told.arrived.into();
    form["time_to_capacity_seconds"] =
        told.time_to_capacity.map_or(Value::Null, |took| took.as_secs_f64().into());
    form
}

/// A decision by itself.
pub(super) fn decision(decision: &Decision, scaling: &Scaling) -> Value {
    let inputs = &decision.inputs;
    let limits: Vec<&str> =
        decision.limits.by_word().into_iter().filter(|(_, cut)| *cut).map(|(limit, _)| limit).collect();
    json!({
        "at": time_text(decision.at),
        "from": decision.from,
        "to": decision.to,
        "direction": decision.direction.as_str(),
        "reason": decision.reason.as_str(),
        "limited_by": limits,
        "inputs": {
            "waiting": inputs.waiting,
            "waiting_slots": thousandths(inputs.waiting_millislots),
            "running": inputs.running,
            "slots": inputs.slots,
        },
        "wish": decision.wish,
        "min": decision.min,
        "max": decision.max,
        "wait_seconds": decision.wait.map(|wait| wait.as_secs()),
        "formula": formula(decision, scaling),
        "why": why(decision, scaling),
    })
}

fn thousandths(number: u64) -> f64 {
    let whole = u32::try_from(number / 1_000).unwrap_or(u32::MAX);
    let rest = u32::try_from(number % 1_000).unwrap_or(0);
    f64::from(whole) + f64::from(rest) / 1e3
}

/// Such as `ceil((12 running + 8 slots for 20 waiting) / (0.75 x 4)) + 0 = 7, within 1 and 8`.
fn formula(decision: &Decision, scaling: &Scaling) -> String {
    let inputs = &decision.inputs;
    format!(
        "ceil(({} running + {} slots for {} waiting) / ({} x {})) + {} = {}, within {} and {}",
        inputs.running,
        thousandths(inputs.waiting_millislots),
        inputs.waiting,
        f64::from(scaling.target_load_percent) / 100.0,
        inputs.slots,
        scaling.spare,
        decision.wish,
        decision.min,
        decision.max,
    )
}

/// One sentence.
fn why(decision: &Decision, scaling: &Scaling) -> String {
    let Decision { from, to, wish, min, max, .. } = decision;
    let wait = decision.wait.map(spelled_roughly).unwrap_or_default();
    let cut = if decision.limits.max {
        format!("; {wish} were wished for and {max} is the most")
    } else if decision.limits.rate {
        format!("; max_step {} holds the rest for {wait}", scaling.max_step.unwrap_or_default())
    } else {
        String::new()
    };
    match (decision.direction, decision.reason) {
        (Direction::Hold, Reason::ProviderError) => {
            format!("stays at {to}: its provider fails, or what is needed is not known")
        }
        (Direction::Hold, Reason::Manual) => format!("stays at {to}: it is paused"),
        (Direction::Hold, Reason::Cooldown) if decision.limits.rate => format!("stays at {to}{cut}"),
        (Direction::Hold, Reason::Cooldown) if *wish > *from => {
            format!("stays at {to}: more must be wanted for another {wait}")
        }
        (Direction::Hold, Reason::Cooldown) => {
            format!("stays at {to}: less must be wanted for another {wait}")
        }
        (Direction::Hold, Reason::Backlog | Reason::Utilisation | Reason::Schedule) => {
            if decision.limits.min {
                format!("stays at {to}: {wish} would do and {min} is the least")
            } else {
                format!("stays at {to}, which is what is needed{cut}")
            }
        }
        (Direction::Up, Reason::Backlog) => format!("from {from} to {to}: tasks wait{cut}"),
        (Direction::Up, Reason::Schedule) => format!("from {from} to {to}: a scheduled minimum holds"),
        (Direction::Up | Direction::Down, Reason::Manual) => {
            format!("from {from} to {to}: by hand, or by new bounds")
        }
        (Direction::Up, Reason::Utilisation | Reason::Cooldown | Reason::ProviderError) => {
            format!("from {from} to {to}: what runs fills more than its share{cut}")
        }
        (Direction::Down, Reason::Schedule) => {
            format!("from {from} to {to}: a scheduled minimum has ended{cut}")
        }
        (
            Direction::Down,
            Reason::Backlog | Reason::Utilisation | Reason::Cooldown | Reason::ProviderError,
        ) => {
            let delay = if *to == 0 { scaling.downscale_to_zero_delay } else { scaling.downscale_delay };
            format!("from {from} to {to}: no more was wanted for {}{cut}", spelled(delay))
        }
    }
}

fn spelled_roughly(wait: std::time::Duration) -> String {
    format!("{} s", wait.as_secs_f64().ceil())
}
