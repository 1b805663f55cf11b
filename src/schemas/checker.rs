//! A schema made ready to judge inputs, and a bounded shelf of those.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::InputError;
use super::weight::{Unfit, Weight};
use crate::fleet::Payload;

/// Bytes of a schema at most.
const MAX_SCHEMA: usize = 64 << 10;
/// Bytes of a compiled regular expression, and of its tables, at most.
const PATTERN_SIZE: usize = 64 << 10;
const PATTERN_TABLES: usize = 256 << 10;
/// Steps that are taken on the thread that dispatches, too: some milliseconds at worst. There are no
/// more faults than steps, so that all of them may be gathered.
const SMALL: usize = 256 << 10;
/// Steps at most: a second at worst.
const LARGE: usize = 64 << 20;
/// Bytes of an input at most; read, they may take twenty times as many.
const MAX_INPUT: usize = 2 << 20;
/// Faults that are told.
const MAX_ERRORS: usize = 16;
/// Characters of a pointer, and of a message, at most.
const MAX_TEXT: usize = 256;
/// What the compiled schemas may weigh together, and how many there may be.
const SHELF_SIZE: usize = 128 << 10;
const SHELF_ENTRIES: usize = 1_024;

/// How an input may be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// Here and now.
    Small,
    /// On a thread of its own.
    Large,
    /// Not at all.
    TooMuch,
}

/// A compiled schema.
#[derive(Debug)]
pub(super) struct Checker {
    validator: Validator,
    weight: Weight,
}

impl Checker {
    /// Compiles a schema: nothing is fetched, and its regular expressions take time in proportion to
    /// the text.
    pub(super) fn of(text: &str) -> Result<Self, Unfit> {
        if text.len() > MAX_SCHEMA {
            return Err(Unfit::TooLong(text.len()));
        }
        let invalid = |error: &dyn std::fmt::Display| Unfit::Invalid(bounded(&error.to_string()));
        let schema: Value = serde_json::from_str(text).map_err(|error| invalid(&error))?;
        let weight = Weight::of(&schema)?;
        let patterns = PatternOptions::regex().size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_TABLES);
        let validator = jsonschema::options()
            .offline()
            .with_pattern_options(patterns)
            .should_validate_formats(false)
            .build(&schema)
            .map_err(|error| invalid(&error))?;
        Ok(Self { validator, weight })
    }

    /// What it takes to check an input of so many bytes.
    pub(super) fn effort(&self, bytes: usize) -> Effort {
        match bytes.saturating_mul(self.weight.steps()) {
            0..=SMALL => Effort::Small,
            0..=LARGE if bytes <= MAX_INPUT => Effort::Large,
            _ => Effort::TooMuch,
        }
    }

    /// What is wrong with an input: the first faults, or the very first one.
    pub(super) fn judge(&self, input: &str, all: bool) -> Vec<InputError> {
        // What cannot be read here (nested too deeply, say) is the worker's to refuse.
        let Ok(input) = serde_json::from_str::<Value>(input) else { return Vec::new() };
        if self.validator.is_valid(&input) {
            return Vec::new();
        }
        if all {
            self.validator.iter_errors(&input).take(MAX_ERRORS).map(|error| told(&error)).collect()
        } else {
            self.validator.validate(&input).err().iter().map(told).collect()
        }
    }
}

fn told(error: &ValidationError<'_>) -> InputError {
    InputError {
        pointer: bounded(error.instance_path().as_str()),
        message: bounded(&error.masked_with("the value").to_string()),
    }
}

fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Compiled schemas by their text; `None` for one that is left to the workers. The oldest go first.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    known: HashMap<Payload, Option<Arc<Checker>>>,
    order: VecDeque<Payload>,
    size: usize,
}

impl Compiled {
    pub(super) fn get(&self, schema: &Payload) -> Option<Option<Arc<Checker>>> {
        self.known.get(schema).cloned()
    }

    pub(super) fn keep(&mut self, schema: Payload, checker: Option<Arc<Checker>>) {
        self.size += size(&checker);
        self.order.push_back(schema.clone());
        if let Some(double) = self.known.insert(schema.clone(), checker) {
            // Two have compiled the same.
            self.size -= size(&double);
            self.order.pop_back();
        }
        while self.order.len() > SHELF_ENTRIES || (self.size > SHELF_SIZE && self.order.len() > 1) {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(checker) = self.known.remove(&oldest) {
                self.size -= size(&checker);
            }
        }
    }
}

fn size(checker: &Option<Arc<Checker>>) -> usize {
    checker.as_ref().map_or(0, |checker| checker.weight.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shelf_of_compiled_schemas_is_bounded() {
        let mut shelf = Compiled::default();
        for number in 0..2 * SHELF_ENTRIES {
            shelf.keep(number.to_string().as_str().into(), None);
        }
        assert_eq!((shelf.known.len(), shelf.order.len()), (SHELF_ENTRIES, SHELF_ENTRIES));
        for number in 0..400 {
            let schema = format!(r#"{{"pattern":"^{number}$"}}"#);
            let checker = Arc::new(Checker::of(&schema).expect("a schema"));
            for _ in 0..2 {
                shelf.keep(schema.as_str().into(), Some(Arc::clone(&checker)));
            }
        }
        assert!(shelf.size <= SHELF_SIZE && shelf.known.len() == shelf.order.len());
        let last = shelf.get(&r#"{"pattern":"^399$"}"#.into()).expect("it is the youngest");
        assert!(last.is_some());
    }
}
