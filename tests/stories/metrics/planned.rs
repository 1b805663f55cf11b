//! What boards and alerts may ask for although this version does not serve it: families whose part of
//! Rollcall is still to come. Their series are absent, so their panels are empty and their alerts
//! silent. An entry goes away when its family enters the catalogue.

/// A family to come: its name, and its labels with the words that queries may use.
pub(crate) struct Planned {
    pub(crate) name: &'static str,
    pub(crate) labels: &'static [(&'static str, &'static [&'static str])],
}

/// Any value: pools, routes and the like.
const ANY: &[&str] = &[];

const fn planned(name: &'static str, labels: &'static [(&'static str, &'static [&'static str])]) -> Planned {
    Planned { name, labels }
}

/// Names and labels as the boards and alerts were designed for.
pub(crate) const PLANNED: &[Planned] = &[
    planned("rollcall_nats_connected", &[]),
    planned("rollcall_nats_reconnects_total", &[]),
    planned("rollcall_nats_ack_pending", &[]),
    planned("rollcall_mcp_requests_total", &[("method", ANY), ("outcome", ANY)]),
    planned("rollcall_mcp_sessions", &[]),
    planned("rollcall_audit_events_total", &[("action", ANY)]),
    planned("rollcall_audit_write_errors_total", &[]),
];
