//! A cable between a server and a worker that a story can cut, mend, and hold so that both ends
//! believe it is whole.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Forwards what is dialled here to a worker. Dropping it cuts everything.
pub(crate) struct Proxy {
    address: SocketAddr,
    cable: watch::Sender<Cable>,
    _task: AbortOnDropHandle<()>,
}

/// How the cable is. Each change concerns the connections that were made before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cable {
    /// Whole, for the n-th time.
    Whole(u32),
    /// Connections are closed, new ones too.
    Cut(u32),
    /// Open connections carry nothing any more and stay open; new ones are whole.
    Held(u32),
}

impl Cable {
    fn number(self) -> u32 {
        match self {
            Self::Whole(number) | Self::Cut(number) | Self::Held(number) => number,
        }
    }
}

impl Proxy {
    /// A whole cable to this address, on a free port.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (cable, state) = watch::channel(Cable::Whole(0));
        let task = AbortOnDropHandle::new(tokio::spawn(forward(listener, target, state)));
        Self { address, cable, _task: task }
    }

    /// Where to dial, as an `endpoint`.
    pub(crate) fn endpoint(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Closes every connection, and those that will be made.
    pub(crate) fn cut(&self) {
        self.cable.send_modify(|cable| *cable = Cable::Cut(cable.number() + 1));
    }

    /// Lets connections be made again.
    pub(crate) fn mend(&self) {
        self.cable.send_modify(|cable| *cable = Cable::Whole(cable.number() + 1));
    }

    /// Swallows whatever the open connections carry, and closes none: half-open, for both ends.
    pub(crate) fn hold(&self) {
        self.cable.send_modify(|cable| *cable = Cable::Held(cable.number() + 1));
    }
}

async fn forward(listener: TcpListener, target: SocketAddr, cable: watch::Receiver<Cable>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let made_under = cable.borrow().number();
        if !matches!(*cable.borrow(), Cable::Cut(_)) {
            connections.spawn(carry(near, target, cable.clone(), made_under));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, mut cable: watch::Receiver<Cable>, made_under: u32) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let changed = tokio::select! {
        // Either end has closed it.
        _ = copy_bidirectional(&mut near, &mut far) => return,
        changed = cable.wait_for(|cable| {
            cable.number() > made_under && !matches!(cable, Cable::Whole(_))
        }) => changed.map(|cable| *cable),
    };
    if let Ok(Cable::Held(_)) = changed {
        // Held until the story ends, or until somebody cuts the cable.
        drop(cable.wait_for(|cable| matches!(cable, Cable::Cut(_))).await);
    }
}
