//! The listener for workers that dial in, and for nothing else: TLS where it is set up, its own limits,
//! so that whatever strangers do at it, the API has its connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, error};

use super::pulse::{Caller, Pulse, TICK};
use super::server::{ACCEPT_PAUSE, Face, connection, goes_on, is_of_the_client};
use crate::api::AppState;
use crate::fleet::ConnectOutcome;
use crate::telemetry::Rejected;
use crate::trust::Door;

/// Connections that have not become a worker's yet.
const MOST: usize = 1_024;
/// The same from one address: a whole site may come back at once.
const MOST_PER_ADDRESS: usize = 256;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where workers dial in.
pub struct WorkersListener {
    /// The socket.
    pub listener: TcpListener,
    /// The certificates, off loopback.
    pub tls: Option<Door>,
}

impl std::fmt::Debug for WorkersListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkersListener").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Who is being served.
#[derive(Default)]
struct Visitors {
    tasks: JoinSet<()>,
    addresses: HashMap<Id, IpAddr>,
    of_address: HashMap<IpAddr, usize>,
}

impl Visitors {
    fn come(&mut self, from: IpAddr, visit: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(visit).id();
        self.addresses.insert(id, from);
        *self.of_address.entry(from).or_default() += 1;
    }

    /// Waits until one leaves; for ever while there is none. Cancel-safe.
    async fn left(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok((id, ()))) => id,
            Some(Err(failed)) => {
                if failed.is_panic() {
                    error!(error = %failed, "a connection's task panicked");
                }
                failed.id()
            }
        };
        let Some(from) = self.addresses.remove(&id) else { return };
        if let Some(count) = self.of_address.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&from);
            }
        }
    }
}

/// Accepts until `shutdown`; connections that have not become a worker's end then. Without a listener
/// there is nothing to do.
pub(super) async fn accept(
    door: Option<WorkersListener>,
    state: &AppState,
    mut shutdown: watch::Receiver<bool>,
) {
    let Some(WorkersListener { listener, tls }) = door else { return };
    let mut visitors = Visitors::default();
    loop {
        let accepted = tokio::select! {
            biased; // A burst of connections must not hold back the end.
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = visitors.left() => continue,
            accepted = listener.accept(), if visitors.tasks.len() < MOST => accepted,
        };
        match accepted {
            Ok((_, from))
                if visitors.of_address.get(&from.ip()).is_some_and(|count| *count >= MOST_PER_ADDRESS) =>
            {
                state.metrics().http_rejected(Rejected::Overload);
            }
            Ok((stream, from)) => {
                visitors.come(from.ip(), visit(stream, from.ip(), tls.clone(), state.clone()));
            }
            Err(error) if is_of_the_client(&error) => {
                debug!(%error, "a connection was gone before it was accepted")
            }
            Err(error) => {
                error!(%error, "workers' connections cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn visit(stream: TcpStream, address: IpAddr, tls: Option<Door>, state: AppState) {
    if let Err(error) = stream.set_nodelay(true) {
        return debug!(%error, "a connection broke before it was served");
    }
    let Some(door) = tls else {
        return watched(stream, Caller { address, names: None }, state).await;
    };
    let asks = door.asks_for_names();
    match timeout(HANDSHAKE, state.manager().trust().tls.accept(stream, &door)).await {
        Ok(Ok((socket, names))) => {
            let caller = Caller { address, names: asks.then_some(names) };
            watched(socket, caller, state).await;
        }
        Ok(Err(error)) => {
            state.metrics().stranger_refused(ConnectOutcome::Tls);
            debug!(%address, %error, "no TLS with somebody who dialled in");
        }
        Err(_) => {
            state.metrics().stranger_refused(ConnectOutcome::Timeout);
            debug!(%address, "somebody who dialled in took too long over the TLS handshake");
        }
    }
}

/// Serves a connection, and cuts it when it hangs.
async fn watched<S>(socket: S, caller: Caller, state: AppState)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let pulse = Arc::new(Pulse::new(caller));
    let mut served = std::pin::pin!(connection(socket, Face::Workers, state.clone(), Arc::clone(&pulse)));
    loop {
        tokio::select! {
            () = served.as_mut() => return,
            () = sleep(TICK) => if !goes_on(pulse.verdict(), &state) {
                return;
            },
        }
    }
}
