//! A connection under TLS that changes threads: the handshake is on one runtime, what follows on
//! another. A socket is watched by the runtime that it was made in, so it is taken out and put in again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A TCP connection, watched by a runtime or on its way to another one.
#[derive(Debug)]
pub(super) enum Homed {
    Here(TcpStream),
    Between(std::net::TcpStream),
    /// It broke on its way.
    Gone,
}

impl Homed {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match self {
            Self::Here(stream) => Ok(Pin::new(stream)),
            Self::Between(_) | Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Leaves the runtime that watches it.
    fn leave(&mut self) -> io::Result<()> {
        if let Self::Here(stream) = std::mem::replace(self, Self::Gone) {
            *self = Self::Between(stream.into_std()?);
        }
        Ok(())
    }

    /// Is watched by the present runtime from now on.
    fn arrive(&mut self) -> io::Result<()> {
        if let Self::Between(stream) = std::mem::replace(self, Self::Gone) {
            *self = Self::Here(TcpStream::from_std(stream)?);
        }
        Ok(())
    }
}

impl AsyncRead for Homed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Homed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

/// A connection under TLS, after its handshake. In a box: it is large, and moved about.
#[derive(Debug)]
pub struct TlsSocket(Box<TlsStream<Homed>>);

impl TlsSocket {
    /// On the thread where the handshake was.
    pub(super) fn leaving(stream: impl Into<TlsStream<Homed>>) -> io::Result<Self> {
        let mut stream = Box::new(stream.into());
        stream.get_mut().0.leave()?;
        Ok(Self(stream))
    }

    /// On the thread that goes on with it.
    pub(super) fn arrived(mut self) -> io::Result<Self> {
        self.0.get_mut().0.arrive()?;
        Ok(self)
    }

    /// The TCP connection below, for its settings.
    ///
    /// # Errors
    /// When it broke on its way.
    pub fn tcp(&self) -> io::Result<&TcpStream> {
        match self.0.get_ref().0 {
            Homed::Here(stream) => Ok(stream),
            Homed::Between(_) | Homed::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The DNS names of the certificate that the other side has shown; none without one.
    pub(super) fn peer_names(&self) -> Box<[String]> {
        let certificates = self.0.get_ref().1.peer_certificates().unwrap_or_default();
        certificates.first().map(rollcall_tls::dns_names).unwrap_or_default().into()
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
