//! The secret that a worker shows, or is shown.

use std::hint::black_box;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

/// A secret that a connection shows; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// Takes the secret.
    pub fn new(secret: impl Into<Arc<str>>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the header that carries it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What it is known by.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The SHA-256 of a secret. How long it takes to look one up tells nothing of the secret, for who
/// guesses cannot choose the digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of what somebody shows.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether both are one; takes as long for a wrong one as for the right one.
    pub fn is_same(&self, other: &Self) -> bool {
        let differs = self.0.iter().zip(&other.0).fold(0, |sum, (one, two)| black_box(sum | (one ^ two)));
        differs == 0
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
