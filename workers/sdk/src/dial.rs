//! Early shape; filled next.
use std::io;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::ConnectOptions;
use crate::hub::Hub;

pub(crate) async fn dial(
    _hub: Arc<Hub>,
    _url: &str,
    _options: ConnectOptions,
    _shutdown: CancellationToken,
) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
