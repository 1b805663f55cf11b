//! The HTTP face: routes, problems, limits, events.
