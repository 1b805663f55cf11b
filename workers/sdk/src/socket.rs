//! Settings of sockets, the same for both ways to meet a server.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Unsent bytes that the kernel takes at most: more, and a result stands behind megabytes of output.
const NOT_SENT: u32 = 64 * 1024;

/// Limits, all checked before anything is allocated for a frame. The library's defaults would take
/// 128 KiB for each connection at once, and let the write buffer grow without end.
pub(crate) fn limits(max_message: usize) -> WebSocketConfig {
    const WRITE_BUFFER: usize = 64 * 1024;
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + max_message + (1 << 20))
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

/// Small frames at once, little unsent, and a dead peer noticed by the kernel too.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(NOT_SENT)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)),
    )
}
