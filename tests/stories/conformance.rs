//! Every worker interface passes the same cases: what holds for the mock holds for the real one.
