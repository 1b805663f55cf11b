//! Which server a verb speaks to.

use clap::Args;

use super::failure::Failure;
use crate::client::{Client, DEFAULT_SERVER};

/// The variable with the access key. There is no flag for it: every user of the machine can read
/// other people's command lines.
const KEY_VARIABLE: &str = "ROLLCALL_KEY";

#[derive(Debug, Args)]
pub(super) struct Server {
    /// The server to speak to.
    #[arg(long, global = true, env = "ROLLCALL_SERVER", value_name = "URL", default_value = DEFAULT_SERVER)]
    server: String,
}

impl Server {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let key = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty());
        Ok(Client::with_key(&self.server, key.as_deref())?)
    }
}
