//! A task's place in a trace (W3C Trace Context, level 1): the caller's, if it sent one, else one that
//! the task's id names. Span ids are made from the ids of tasks and attempts, so that everybody who
//! knows those knows them: the worker that an attempt is handed to, and whoever exports spans later,
//! also after a restart.

use super::ids::{Epoch, HEX, TaskId};

/// Which trace a task belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never zero.
    pub trace: u128,
    /// The caller's span, if it sent one.
    pub parent: Option<u64>,
    /// Whether the caller records the trace; ours are recorded.
    pub sampled: bool,
    task: TaskId,
}

/// What a span of a task is about; each has an id of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanOf {
    /// The whole task.
    Task,
    /// From the request to the core.
    Accept,
    /// A wait before this attempt; the one that has not come yet has the number after the last.
    Queue(u32),
    /// From the decision to the worker's word that it began.
    Dispatch(Epoch),
    /// The worker's work. It is the parent of the worker's own spans.
    Execution(Epoch),
    /// From the end to its being on disk.
    Record,
}

impl TraceContext {
    /// The context of a task; `traceparent` is the caller's header, if it has the form of version 00.
    pub fn of(task: TaskId, traceparent: Option<&str>) -> Self {
        let theirs = traceparent.and_then(parse);
        let (trace, parent, sampled) = match theirs {
            Some((trace, parent, sampled)) => (trace, Some(parent), sampled),
            None => (task.0.max(1), None, true),
        };
        Self { trace, parent, sampled, task }
    }

    /// The id of one of its spans; never zero.
    pub fn span(&self, of: SpanOf) -> u64 {
        let (kind, number) = match of {
            SpanOf::Task => (1, 0),
            SpanOf::Accept => (2, 0),
            SpanOf::Queue(number) => (3, u64::from(number)),
            SpanOf::Dispatch(epoch) => (4, epoch.0),
            SpanOf::Execution(epoch) => (5, epoch.0),
            SpanOf::Record => (6, 0),
        };
        let low = u64::try_from(self.task.0 & u128::from(u64::MAX)).unwrap_or(0);
        let high = u64::try_from(self.task.0 >> 64).unwrap_or(0);
        mix(mix(mix(mix(low) ^ high) ^ kind) ^ number).max(1)
    }

    /// Writes the header that hands this trace on to the worker of an attempt.
    pub fn traceparent(self, epoch: Epoch, text: &mut [u8; 55]) -> &str {
        // By hand, as ids are: each attempt has one.
        *text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(&mut text[3..35], &self.trace.to_be_bytes());
        hex(&mut text[36..52], &self.span(SpanOf::Execution(epoch)).to_be_bytes());
        hex(&mut text[53..], &[u8::from(self.sampled)]);
        std::str::from_utf8(text).unwrap_or_default()
    }
}

/// Writes bytes as hexadecimal digits; there is room for just as many.
fn hex(text: &mut [u8], bytes: &[u8]) {
    for (digits, byte) in text.chunks_exact_mut(2).zip(bytes) {
        digits.copy_from_slice(&HEX[usize::from(*byte)]);
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014): a bijection that spreads every bit.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The trace, the caller's span and whether it is recorded. What has another form, or ids of zero,
/// is as if it had not been sent (Trace Context, sections 3.2.2 and 4.3).
fn parse(text: &str) -> Option<(u128, u64, bool)> {
    let lower_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let sized = version == "00" && trace.len() == 32 && parent.len() == 16 && flags.len() == 2;
    if !sized || parts.next().is_some() || ![trace, parent, flags].into_iter().all(lower_hex) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|parent| *parent != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace, parent, flags & 1 == 1))
}

/// Whether a header is a trace context of version 00.
pub fn is_traceparent(text: &str) -> bool {
    parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn a_callers_trace_is_gone_on_with() {
        let context = TraceContext::of(TaskId(7), Some(THEIRS));
        assert_eq!(context.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((context.parent, context.sampled), (Some(0x00f0_67aa_0ba9_02b7), false));
        let mut text = [0; 55];
        let handed = context.traceparent(Epoch(1), &mut text);
        assert_eq!(parse(handed), Some((context.trace, context.span(SpanOf::Execution(Epoch(1))), false)));
    }

    #[test]
    fn without_one_the_task_names_it() {
        for wrong in [
            None,
            Some(""),
            Some("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),
            Some("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"),
            Some("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"),
            Some("00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ] {
            let context = TraceContext::of(TaskId(7), wrong);
            assert_eq!((context.trace, context.parent, context.sampled), (7, None, true), "{wrong:?}");
        }
    }

    #[test]
    fn no_two_spans_share_an_id() {
        let of = [SpanOf::Task, SpanOf::Accept, SpanOf::Record].into_iter();
        let numbered = (1..100).flat_map(|n| {
            [SpanOf::Queue(n), SpanOf::Dispatch(Epoch(n.into())), SpanOf::Execution(Epoch(n.into()))]
        });
        let kinds: Vec<_> = of.chain(numbered).collect();
        let mut ids: Vec<u64> = (1..100)
            .flat_map(|task| {
                let context = TraceContext::of(TaskId(task), None);
                kinds.iter().map(move |of| context.span(*of))
            })
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
