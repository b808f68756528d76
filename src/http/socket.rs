//! The connection below HTTP.

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::rt::net::TcpStream;
use std::any::Any;
use std::time::Duration;

/// Has the system end the connection of a client that takes nothing of what was sent to it for `time`: TCP_USER_TIMEOUT, tcp(7). Where there is
/// none (macOS), such a client keeps its connection.
pub fn end_if_stalled(connection: &dyn Any, time: Duration) {
    let tls = connection.downcast_ref::<TlsStream<TcpStream>>().map(|tls| tls.get_ref().0);
    let Some(socket) = connection.downcast_ref::<TcpStream>().or(tls) else { return };
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_user_timeout(Some(time)) {
        tracing::debug!(error = %error, "A connection has no TCP_USER_TIMEOUT");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, time);
}
