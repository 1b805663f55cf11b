//! Early shape; filled next.
use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::ServeOptions;
use crate::hub::Hub;

pub(crate) async fn serve(
    _hub: Arc<Hub>,
    _listener: TcpListener,
    _options: ServeOptions,
    _shutdown: CancellationToken,
) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
