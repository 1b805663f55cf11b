//! The HTTP face: routes, problem+json, server-sent events, limits. It translates; it decides nothing.
