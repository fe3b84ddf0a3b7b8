//! How agents and tools dial a collector: TCP, mutual TLS 1.3, HTTP/2.
//!
//! Windows, keep-alive and limits are set on purpose: 1 MiB default windows
//! would cap a link of 100 ms at 10 MB/s, and a peer that silently vanished
//! must be noticed within half a minute.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// Longest that dialling and the TLS handshake may take together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A silent peer is asked for a sign of life this often.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// And given up when none came within this.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// HTTP/2 window of a connection and of each stream: 8 MiB, two of the
/// largest batches.
pub const WINDOW_BYTES: u32 = 8 << 20;

/// Longest gRPC message that either side takes: a batch may have 4 MiB before
/// compression, and compression never adds more than this leaves.
pub const MESSAGE_BYTES_MAX: usize = 6 << 20;

/// An address that is no `HOST:PORT`.
#[derive(Debug, thiserror::Error)]
#[error("collector address {address:?} is not HOST:PORT, for example collector.example:7433")]
pub struct AddressError {
    /// As it was written.
    pub address: String,
}

/// Checks an address of the form `HOST:PORT`, with `[…]` around IPv6.
///
/// # Errors
/// [`AddressError`] when host or port is missing or wrong.
pub fn check_address(address: &str) -> Result<(), AddressError> {
    let error = || AddressError {
        address: address.to_owned(),
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(error)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let port_fits = port.parse::<u16>().is_ok_and(|port| port != 0);
    if port_fits && ServerName::try_from(bare).is_ok() {
        Ok(())
    } else {
        Err(error())
    }
}

/// Builds a channel that dials `address` when it is first used, and again
/// after every failure.
///
/// # Errors
/// [`AddressError`] when the address is not `HOST:PORT`.
pub fn channel(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, AddressError> {
    Ok(endpoint(address)?.connect_with_connector_lazy(connector(address, tls)))
}

/// Dials `address` and returns the channel once the TLS handshake is done.
///
/// # Errors
/// [`DialError`] says which step failed.
pub async fn dial(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, DialError> {
    endpoint(address)?
        .connect_with_connector(connector(address, tls))
        .await
        .map_err(|source| DialError::Connect {
            address: address.to_owned(),
            source,
        })
}

/// A collector that cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// TCP, TLS or HTTP/2 failed.
    #[error("cannot reach the collector at {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

fn endpoint(address: &str) -> Result<Endpoint, AddressError> {
    check_address(address)?;
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|_| AddressError {
            address: address.to_owned(),
        })?;
    Ok(endpoint
        .user_agent(concat!("shrike/", env!("CARGO_PKG_VERSION")))
        .expect("the version is a valid header")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES))
}

type TlsStream = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;

fn connector(
    address: &str,
    tls: Arc<ClientConfig>,
) -> impl tower::Service<
    http::Uri,
    Response = TlsStream,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TlsStream>> + Send,
> + Send
+ 'static {
    let address: Arc<str> = address.into();
    service_fn(move |_: http::Uri| {
        let (address, tls) = (Arc::clone(&address), Arc::clone(&tls));
        async move {
            timeout(CONNECT_TIMEOUT, handshake(&address, tls))
                .await
                .map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no TLS handshake within {} s", CONNECT_TIMEOUT.as_secs()),
                    )
                })?
        }
    })
}

async fn handshake(address: &str, tls: Arc<ClientConfig>) -> io::Result<TlsStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // The verifier goes by the SPIFFE name; a constant spares the server the
    // name that this client happens to know it by.
    let name = ServerName::try_from("shrike-collector").expect("a valid DNS name");
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    Ok(TokioIo::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let check = |address: &str, valid: bool| {
            assert_eq!(check_address(address).is_ok(), valid, "{address:?}");
        };
        check("localhost:7433", true);
        check("10.0.2.2:7433", true);
        check("[::1]:7433", true);
        check("localhost", false);
        check(":7433", false);
        check("localhost:0", false);
        check("localhost:99999", false);
        check("https://localhost:7433", false);
    }
}
