//! What somebody who dials in has shown, and for which workers' names that is enough.

use std::sync::Arc;

use super::credentials::{Credentials, pool_of};
use super::token::{Digest, Token};
use crate::fleet::WorkerName;

/// What was shown on a connection, before its worker has said its name.
#[derive(Debug, Clone, Default)]
pub struct Pass {
    /// The token.
    pub shown: Option<Digest>,
    /// The names of the certificate, where one was asked for.
    pub names: Option<Box<[String]>>,
    /// Whether a worker without a token may come this way: on loopback alone.
    pub token_needed: bool,
    /// What is expected.
    pub credentials: Arc<Credentials>,
}

impl Pass {
    /// Whether a worker may take this name.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn admits(&self, worker: &WorkerName) -> Result<(), String> {
        let expected = self.credentials.of(worker).and_then(|credential| credential.token.as_ref());
        match (expected.map(Token::digest), &self.shown) {
            (None, _) if self.token_needed => {
                return Err(format!(
                    "there is no worker {:?}, nor a pool of it, that has a token in the configuration",
                    worker.as_str()
                ));
            }
            (Some(expected), Some(shown)) if expected.is_same(shown) => {}
            (Some(_), Some(_)) => return Err(format!("the token is not that of {:?}", worker.as_str())),
            (Some(_), None) => return Err(format!("{:?} has a token, and none was shown", worker.as_str())),
            (None, _) => {}
        }
        let Some(names) = &self.names else { return Ok(()) };
        let pool = pool_of(worker.as_str());
        let is_its = |name: &String| {
            name == worker.as_str() || pool.as_ref().is_some_and(|pool| name == pool.as_str())
        };
        if names.iter().any(is_its) {
            return Ok(());
        }
        let told = if names.is_empty() { "no DNS name".to_owned() } else { names.join(", ") };
        Err(format!("the certificate is for {told}, neither for {:?} nor for its pool", worker.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Credential;

    fn pass(shown: Option<&str>, names: Option<&[&str]>, token_needed: bool) -> Pass {
        let with = |secret: &str| Credential { token: Some(Token::new(secret)), ..Credential::default() };
        let mut credentials = Credentials::default();
        credentials.worker("ann".into(), with("of ann"));
        credentials.pool("gpu".into(), with("of the pool"));
        Pass {
            shown: shown.map(|secret| Digest::of(secret.as_bytes())),
            names: names.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            token_needed,
            credentials: Arc::new(credentials),
        }
    }

    fn admits(pass: &Pass, name: &str) -> bool {
        pass.admits(&name.into()).is_ok()
    }

    #[test]
    fn a_token_opens_for_its_own_name_and_a_pools_for_all_of_its_workers() {
        let of_ann = pass(Some("of ann"), None, true);
        assert!(admits(&of_ann, "ann"));
        assert!(!admits(&of_ann, "gpu-1") && !admits(&of_ann, "bob"));
        let of_pool = pass(Some("of the pool"), None, true);
        assert!(admits(&of_pool, "gpu-1") && admits(&of_pool, "gpu-17"));
        assert!(!admits(&of_pool, "ann") && !admits(&of_pool, "gpu") && !admits(&of_pool, "gpu-x"));
    }

    #[test]
    fn without_a_token_only_those_come_in_who_have_none_and_only_where_none_is_needed() {
        let anonymous = pass(None, None, false);
        assert!(admits(&anonymous, "bob"));
        assert!(!admits(&anonymous, "ann") && !admits(&anonymous, "gpu-1"));
        assert!(!admits(&pass(None, None, true), "bob"));
    }

    #[test]
    fn a_certificate_must_be_for_the_worker_or_for_its_pool() {
        let of_pool = |names: &[&str]| pass(Some("of the pool"), Some(names), true);
        assert!(admits(&of_pool(&["gpu-1"]), "gpu-1"));
        assert!(admits(&of_pool(&["other", "gpu"]), "gpu-1"));
        assert!(!admits(&of_pool(&["gpu-2"]), "gpu-1"));
        assert!(!admits(&of_pool(&["*.gpu", "gpu-1.example"]), "gpu-1"));
        let told = of_pool(&["gpu-2"]).admits(&"gpu-1".into()).expect_err("another's");
        assert_eq!(told, "the certificate is for gpu-2, neither for \"gpu-1\" nor for its pool");
    }
}
