//! The seven checks, once with mocks and once with the real Python worker.
