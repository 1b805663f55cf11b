//! Stories about the running server, one module per subject; they share `support`.

mod artifacts;
mod batches;
mod clouds;
mod command_line;
mod conformance;
mod crashes;
mod dead_letters;
mod durability;
mod http_api;
mod input_schemas;
mod kept_output;
mod keyed_replays;
mod launching;
mod metrics;
mod pools;
mod protocol_doc;
mod python_worker;
mod sandbox;
mod serving;
mod sessions;
mod seven_checks;
mod status_board;
mod support;
mod topology_reload;
mod traces;
mod worker_failover;
