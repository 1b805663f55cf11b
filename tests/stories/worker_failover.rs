//! Workers that crash, stall, lie or babble.
