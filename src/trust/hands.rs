//! The thread that shakes hands: the costly part of a TLS connection, which must not hold up the
//! thread that hands out tasks. It also follows the files of certificates. There is no such thread
//! before it is needed.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rollcall_tls::{
    ClientConfig, ClientFiles, Fault, Files as _, Kept, Part, Renewal, ServerConfig, ServerFiles, ServerName,
};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::rustls::{CertificateError, Error};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{error, info};

use super::socket::{Homed, TlsSocket};

/// How often the files of certificates are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Handshakes at once; more wait.
const HANDSHAKES: usize = 256;
/// After so long without use, what was read for dialling is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// Which certificate it is; the words of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// What our listeners show.
    Api,
    /// What we show to workers that ask for it.
    WorkerClient,
    /// The authorities that workers' certificates are judged by, when they dial in.
    WorkerCa,
}

impl Certificate {
    /// Every one, in label order.
    pub const ALL: [Self; 3] = [Self::Api, Self::WorkerClient, Self::WorkerCa];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::WorkerClient => "worker_client",
            Self::WorkerCa => "worker_ca",
        }
    }
}

/// What certificates do, for the metrics.
pub trait TlsMeter: Send + Sync {
    /// Files were looked at: `applied`, `unchanged` or `invalid`.
    fn certificates_reloaded(&self, outcome: &'static str);

    /// The first of these certificates ends then, in seconds since 1970.
    fn certificate_expires(&self, which: Certificate, at: i64);
}

/// Counts nothing.
impl TlsMeter for () {
    fn certificates_reloaded(&self, _: &'static str) {}

    fn certificate_expires(&self, _: Certificate, _: i64) {}
}

/// Why there is no connection under TLS.
#[derive(Debug)]
pub enum NoTls {
    /// Our own files are wrong.
    Files(Vec<Fault>),
    /// The host is no name that a certificate can be for.
    Name(String),
    /// The two sides could not agree, or one left.
    Handshake(io::Error),
    /// The thread could not be started, or has ended.
    Thread(io::Error),
}

impl std::fmt::Display for NoTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(faults) => {
                let told: Vec<_> = faults.iter().map(|fault| format!("tls.{fault}")).collect();
                f.write_str(&told.join("; "))
            }
            Self::Name(host) => write!(f, "{host:?} is no name that a certificate can be for"),
            Self::Handshake(error) => write!(f, "TLS: {error}{}", advice(error)),
            Self::Thread(error) => write!(f, "the TLS thread is not there: {error}"),
        }
    }
}

impl std::error::Error for NoTls {}

/// What to do about an error of a handshake.
fn advice(error: &io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "; its certificate is from an authority that is not believed here: `tls.ca` names the right one"
        }
        Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => {
            "; its certificate is for another host than the one that was dialled"
        }
        Some(Error::InvalidCertificate(
            CertificateError::ExpiredContext { .. } | CertificateError::Expired,
        )) => "; its certificate has expired",
        Some(Error::AlertReceived(_)) => {
            "; the other side refused what it was shown: `tls.cert` and `tls.key` here, or its own `ca`"
        }
        Some(Error::InvalidMessage(_)) => "; does the other side speak TLS at all?",
        _ => "",
    }
}

/// What a listener shows, following its files.
#[derive(Clone)]
pub struct Door(Arc<Kept<ServerFiles>>);

impl Door {
    /// Whether clients must show a certificate.
    pub fn asks_for_names(&self) -> bool {
        self.0.files().client_ca.is_some()
    }
}

type Reply = oneshot::Sender<Result<TlsSocket, NoTls>>;

enum Job {
    Accept(std::net::TcpStream, Arc<ServerConfig>, Reply),
    Connect(std::net::TcpStream, ServerName<'static>, ClientFiles, Reply),
    Follow(Weak<Kept<ServerFiles>>),
}

struct Thread {
    jobs: mpsc::Sender<Job>,
    /// Joined when the last handle goes.
    handle: Option<JoinHandle<()>>,
}

struct Inner {
    meter: Arc<dyn TlsMeter>,
    thread: Mutex<Option<Thread>>,
    places: Semaphore,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Thread { jobs, handle: Some(handle) }) = thread {
            drop(jobs);
            if handle.join().is_err() {
                error!("the TLS thread panicked; this is a bug in Rollcall");
            }
        }
    }
}

/// A handle to the thread. Clone it freely.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

impl Default for Tls {
    fn default() -> Self {
        Self::new(Arc::new(()))
    }
}

impl Tls {
    /// No thread yet.
    pub fn new(meter: Arc<dyn TlsMeter>) -> Self {
        Self(Arc::new(Inner { meter, thread: Mutex::default(), places: Semaphore::new(HANDSHAKES) }))
    }

    /// A listener's certificates, which are followed from then on. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// What is wrong with the files, or that the thread cannot be started.
    pub fn door(&self, files: ServerFiles) -> Result<Door, NoTls> {
        let kept = Arc::new(Kept::load(files).map_err(NoTls::Files)?);
        self.jobs()?.try_send(Job::Follow(Arc::downgrade(&kept))).map_err(|_| gone())?;
        Ok(Door(kept))
    }

    /// Shakes hands with a client; the names of its certificate come with the connection. Cancel-safe:
    /// the connection is gone then. Give it a time limit.
    ///
    /// # Errors
    /// See [`NoTls`].
    pub async fn accept(&self, stream: TcpStream, door: &Door) -> Result<(TlsSocket, Box<[String]>), NoTls> {
        let config = door.0.config();
        let socket = self.shake(stream, |stream, reply| Job::Accept(stream, config, reply)).await?;
        let names = socket.peer_names();
        Ok((socket, names))
    }

    /// Shakes hands with a server that must be `host`. As [`Tls::accept`].
    ///
    /// # Errors
    /// See [`NoTls`].
    pub async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
        files: &ClientFiles,
    ) -> Result<TlsSocket, NoTls> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| NoTls::Name(host.to_owned()))?;
        let files = files.clone();
        self.shake(stream, |stream, reply| Job::Connect(stream, name, files, reply)).await
    }

    async fn shake(
        &self,
        stream: TcpStream,
        job: impl FnOnce(std::net::TcpStream, Reply) -> Job,
    ) -> Result<TlsSocket, NoTls> {
        let _place = self.0.places.acquire().await.map_err(|_| gone())?;
        let (reply, answer) = oneshot::channel();
        let stream = stream.into_std().map_err(NoTls::Handshake)?;
        self.jobs()?.send(job(stream, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??.arrived().map_err(NoTls::Handshake)
    }

    /// The way to the thread, which is started when it is first needed.
    fn jobs(&self) -> Result<mpsc::Sender<Job>, NoTls> {
        let mut thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.as_ref() {
            return Ok(thread.jobs.clone());
        }
        let (jobs, waiting) = mpsc::channel(HANDSHAKES);
        let meter = Arc::clone(&self.0.meter);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NoTls::Thread)?;
        let handle = std::thread::Builder::new()
            .name("tls".to_owned())
            .spawn(move || runtime.block_on(Hands::new(meter).run(waiting)))
            .map_err(NoTls::Thread)?;
        *thread = Some(Thread { jobs: jobs.clone(), handle: Some(handle) });
        Ok(jobs)
    }
}

fn gone() -> NoTls {
    NoTls::Thread(io::Error::other("it has ended"))
}

/// What was read for dialling, and when it was last used.
struct Dialled {
    kept: Kept<ClientFiles>,
    used: Instant,
}

/// What the thread has.
struct Hands {
    meter: Arc<dyn TlsMeter>,
    doors: Vec<Weak<Kept<ServerFiles>>>,
    dialled: HashMap<ClientFiles, Dialled>,
}

impl Hands {
    fn new(meter: Arc<dyn TlsMeter>) -> Self {
        Self { meter, doors: Vec::new(), dialled: HashMap::new() }
    }

    /// Runs until the last handle is gone; handshakes that are under way are given up then.
    async fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                job = waiting.recv() => match job {
                    None => return,
                    Some(Job::Follow(door)) => {
                        self.doors.push(door);
                        self.tell_expiries();
                    }
                    Some(Job::Accept(stream, config, reply)) => {
                        let acceptor = TlsAcceptor::from(config);
                        under_way.spawn(answered(reply, async move {
                            let stream = Homed::Here(TcpStream::from_std(stream)?);
                            TlsSocket::leaving(TlsStream::from(acceptor.accept(stream).await?))
                        }));
                    }
                    Some(Job::Connect(stream, name, files, reply)) => match self.client(&files) {
                        // Who asked may have gone.
                        Err(faults) => drop(reply.send(Err(NoTls::Files(faults)))),
                        Ok(config) => {
                            let connector = TlsConnector::from(config);
                            under_way.spawn(answered(reply, async move {
                                let stream = Homed::Here(TcpStream::from_std(stream)?);
                                TlsSocket::leaving(TlsStream::from(connector.connect(name, stream).await?))
                            }));
                        }
                    },
                },
                Some(ended) = under_way.join_next() => {
                    if ended.is_err() {
                        error!("a TLS handshake panicked; this is a bug");
                    }
                }
                _ = look.tick() => self.look(),
            }
        }
    }

    /// What is shown to servers, read once.
    fn client(&mut self, files: &ClientFiles) -> Result<Arc<ClientConfig>, Vec<Fault>> {
        if let Some(dialled) = self.dialled.get_mut(files) {
            dialled.used = Instant::now();
            return Ok(dialled.kept.config());
        }
        let kept = Kept::load(files.clone())?;
        let config = kept.config();
        self.dialled.insert(files.clone(), Dialled { kept, used: Instant::now() });
        self.tell_expiries();
        Ok(config)
    }

    /// Looks at all files; what is connected stays so, whatever they say.
    fn look(&mut self) {
        self.doors.retain(|door| door.strong_count() > 0);
        self.dialled.retain(|_, dialled| dialled.used.elapsed() < FORGET);
        let doors: Vec<_> = self.doors.iter().filter_map(Weak::upgrade).collect();
        let paths = |paths: Vec<&std::path::Path>| {
            paths.first().map_or_else(String::new, |path| path.display().to_string())
        };
        let mut changed = false;
        for door in &doors {
            changed |= self.renewed(door.renew(), || paths(door.files().paths()));
        }
        for (files, dialled) in &self.dialled {
            changed |= self.renewed(dialled.kept.renew(), || paths(files.paths()));
        }
        if changed {
            self.tell_expiries();
        }
    }

    /// Counts and logs what a look came to; whether there is something new.
    fn renewed(&self, renewal: Renewal, file: impl Fn() -> String) -> bool {
        match renewal {
            Renewal::Unchanged => {
                self.meter.certificates_reloaded("unchanged");
                false
            }
            Renewal::Applied => {
                self.meter.certificates_reloaded("applied");
                info!(file = file(), "new certificates are in force; what is connected stays connected");
                true
            }
            Renewal::Invalid(faults) => {
                self.meter.certificates_reloaded("invalid");
                for fault in faults {
                    error!(
                        file = file(),
                        "certificates were changed and not taken, the old ones stay: {fault}"
                    );
                }
                false
            }
        }
    }

    fn tell_expiries(&self) {
        let doors: Vec<_> = self.doors.iter().filter_map(Weak::upgrade).collect();
        let first = |all: &mut dyn Iterator<Item = i64>| all.min();
        let told = [
            (Certificate::Api, first(&mut doors.iter().filter_map(|door| door.expiry(Part::Cert)))),
            (Certificate::WorkerCa, first(&mut doors.iter().filter_map(|door| door.expiry(Part::ClientCa)))),
            (
                Certificate::WorkerClient,
                first(&mut self.dialled.values().filter_map(|dialled| dialled.kept.expiry(Part::Cert))),
            ),
        ];
        for (which, at) in told {
            if let Some(at) = at {
                self.meter.certificate_expires(which, at);
            }
        }
    }
}

/// Shakes hands for as long as somebody waits for it.
async fn answered(mut reply: Reply, handshake: impl Future<Output = io::Result<TlsSocket>>) {
    let shaken = tokio::select! {
        shaken = handshake => shaken.map_err(NoTls::Handshake),
        () = reply.closed() => return,
    };
    // Who asked may have gone in this very moment.
    drop(reply.send(shaken));
}
