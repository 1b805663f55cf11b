//! The HTTP client that the command line, the bench and the tests share.
