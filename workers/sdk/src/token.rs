//! The secret that a server shows to a worker that listens, and a worker that dials in to a server.

use std::io;
use std::path::Path;
use std::sync::Arc;

/// The environment's name for the token; a launched worker always finds a fresh one there.
pub const TOKEN: &str = "ROLLCALL_TOKEN";

/// A secret; never printed.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// Takes the secret. An empty one, or one with characters that no header carries, is an error.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`].
    pub fn new(secret: &str) -> io::Result<Self> {
        let secret = secret.trim();
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem = "a token is one or more visible ASCII characters";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(Self(secret.into()))
    }

    /// The token of the environment (`ROLLCALL_TOKEN`), if there is one.
    ///
    /// # Errors
    /// As [`Token::new`].
    pub fn from_env() -> io::Result<Option<Self>> {
        std::env::var(TOKEN).ok().map(|secret| Self::new(&secret)).transpose()
    }

    /// The token in a file; white space around it is ignored.
    ///
    /// # Errors
    /// When the file cannot be read, or as [`Token::new`].
    pub fn from_file(path: &Path) -> io::Result<Self> {
        Self::new(&std::fs::read_to_string(path)?)
    }

    /// The value of the header that carries it.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether a header carries it; takes as long for a wrong one as for the right one.
    pub(crate) fn is_shown_by(&self, header: Option<&[u8]>) -> bool {
        let Some((scheme, shown)) = header.and_then(|header| header.split_at_checked(7)) else {
            return false;
        };
        let differs = |(a, b): (&u8, &u8)| a ^ b;
        let same = shown.iter().zip(self.0.as_bytes()).map(differs).fold(0, |sum, bit| sum | bit) == 0;
        scheme.eq_ignore_ascii_case(b"bearer ") && shown.len() == self.0.len() && same
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::new(" s3cret\n").expect("a token");
        assert!(token.is_shown_by(Some(b"Bearer s3cret")));
        assert!(token.is_shown_by(Some(b"bearer s3cret")));
        for wrong in [&b"Bearer s3cre"[..], b"Bearer s3cret2", b"Bearer ", b"s3cret", b"Basic s3cret", b""] {
            assert!(!token.is_shown_by(Some(wrong)), "{wrong:?}");
        }
        assert!(!token.is_shown_by(None));
        assert_eq!(format!("{token:?}"), "***");
        assert!(Token::new(" ").is_err());
    }
}
