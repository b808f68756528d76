//! Options of the TCP connection below HTTP.

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::rt::net::TcpStream;
use std::any::Any;
use std::time::Duration;

/// Has the kernel close the connection when the client acknowledges nothing of what was sent to it for `timeout`
/// (`TCP_USER_TIMEOUT`, tcp(7)). Systems without this option, such as macOS, keep the connection of such a client open.
pub fn set_stall_timeout(connection: &dyn Any, timeout: Duration) {
    let tls = connection.downcast_ref::<TlsStream<TcpStream>>().map(|tls| tls.get_ref().0);
    let Some(socket) = connection.downcast_ref::<TcpStream>().or(tls) else { return };
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_user_timeout(Some(timeout)) {
        tracing::debug!(error = %error, "A connection has no TCP_USER_TIMEOUT");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, timeout);
}
