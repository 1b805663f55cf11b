//! Where a worker's name leads: resolved anew with each dial, tried in a good order, and remembered for
//! a while, so that a resolver that is down costs no worker.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long the address of the last connection is dialled although its name cannot be resolved. What
/// the system's resolver tells has no time to live of its own.
const KEPT: Duration = Duration::from_secs(300);

/// Addresses of one name that are tried at most.
const TRIED: usize = 64;

/// How long one address has before the next is tried beside it (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Names that are remembered at most; beyond it all are forgotten.
const NAMES: usize = 20_000;

/// The addresses that led to a connection, by name and port.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    good: Mutex<BTreeMap<(String, u16), (SocketAddr, Instant)>>,
}

/// Why there is no connection.
pub(super) enum Nowhere {
    /// The name leads nowhere.
    Unresolved(String),
    /// Nobody answers where it leads.
    Unreachable(io::Error),
}

impl Addresses {
    /// Connects to the first address of a name that answers.
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Nowhere> {
        let found = tokio::net::lookup_host((host, port)).await;
        let good = self.good(host, port);
        let addresses = match (found, good) {
            (Ok(found), good) => in_order(found.collect(), good),
            (Err(_), Some(good)) => vec![good],
            (Err(problem), None) => return Err(Nowhere::Unresolved(problem.to_string())),
        };
        if addresses.is_empty() {
            return Err(Nowhere::Unresolved(format!("{host} has no address")));
        }
        let stream = first(&addresses).await.map_err(Nowhere::Unreachable)?;
        if let Ok(address) = stream.peer_addr() {
            self.keep(host, port, address);
        }
        Ok(stream)
    }

    fn good(&self, host: &str, port: u16) -> Option<SocketAddr> {
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let known = good.get(&(host.to_owned(), port));
        known.filter(|(_, since)| since.elapsed() < KEPT).map(|(address, _)| *address)
    }

    fn keep(&self, host: &str, port: u16, address: SocketAddr) {
        // An address by itself needs no resolver.
        if host.parse::<std::net::IpAddr>().is_ok() {
            return;
        }
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= NAMES {
            good.clear();
        }
        good.insert((host.to_owned(), port), (address, Instant::now()));
    }
}

/// The last good address first, if the name still has it; then the families in turn (RFC 8305, section
/// 4), the one that the resolver put first before the other.
fn in_order(found: Vec<SocketAddr>, good: Option<SocketAddr>) -> Vec<SocketAddr> {
    let good = good.filter(|good| found.contains(good));
    let six_first = found.first().is_some_and(SocketAddr::is_ipv6);
    let rest = found.into_iter().filter(|address| Some(*address) != good);
    let (leading, other): (Vec<_>, Vec<_>) = rest.partition(|address| address.is_ipv6() == six_first);
    let (mut leading, mut other) = (leading.into_iter(), other.into_iter());
    let mut order: Vec<SocketAddr> = good.into_iter().collect();
    loop {
        let pair = [leading.next(), other.next()];
        if pair.iter().all(Option::is_none) || order.len() >= TRIED {
            order.truncate(TRIED);
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

/// The first of these that connects; each gets a head start, and a failure lets the next begin at once.
async fn first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter();
    let mut trying = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let next = waiting.next();
        let more = next.is_some();
        trying.extend(next.map(|address| TcpStream::connect(*address)));
        let mut head_start = pin!(sleep(HEAD_START));
        tokio::select! {
            biased;
            ended = trying.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(problem)) => last = problem,
                None => return Err(last),
            },
            () = &mut head_start, if more => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn addresses(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn families_take_turns_behind_the_last_good_address() {
        let found = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"]);
        let good = "127.0.0.2:1".parse().ok();
        let expected = addresses(&["127.0.0.2:1", "[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(in_order(found.clone(), good), expected);
        let gone = "127.0.0.9:1".parse().ok();
        assert_eq!(
            in_order(found.clone(), gone)[..2],
            found[..1].iter().chain(&found[3..4]).copied().collect::<Vec<_>>()
        );
    }

    #[test]
    fn of_many_addresses_only_some_are_tried() {
        let found: Vec<SocketAddr> = (0..100).map(|n| SocketAddr::from(([127, 0, 1, n], 1))).collect();
        assert_eq!(in_order(found.clone(), found.last().copied()).len(), TRIED);
    }

    #[tokio::test]
    async fn the_first_that_answers_is_taken_and_refusals_cost_no_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let good = listener.local_addr().expect("it is bound");
        // Nobody listens at the other addresses of loopback with that port.
        let mut all: Vec<SocketAddr> =
            (2..12).map(|n| SocketAddr::from(([127, 0, 9, n], good.port()))).collect();
        all.push(good);
        let begun = Instant::now();
        let stream = first(&all).await.expect("one answers");
        assert_eq!(stream.peer_addr().expect("it is connected"), good);
        assert!(begun.elapsed() < HEAD_START * 8, "{:?}", begun.elapsed());
        drop(listener);
        assert!(first(&all).await.is_err());
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_resolved_any_more_leads_where_it_led() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let good = listener.local_addr().expect("it is bound");
        let known = Addresses::default();
        let gone = "gone.invalid";
        assert!(matches!(known.connect(gone, good.port()).await, Err(Nowhere::Unresolved(_))));
        known.keep(gone, good.port(), good);
        assert!(known.connect(gone, good.port()).await.is_ok());
    }
}
