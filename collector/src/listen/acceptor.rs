//! Accepts connections: cap, handshake with time-out, identity.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use shrike_proto::identity::{Identity, IdentityError};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::peer::Peer;
use crate::chain::chain;

/// Finished handshakes that wait for the server: it takes them at once.
const ACCEPTED_QUEUED: usize = 16;

/// Pause after the system refused to accept, which is when it has no file
/// descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a listener puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, those in their handshake included.
    pub connections_max: usize,
    /// Longest handshake.
    pub handshake_timeout: Duration,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _slot: OwnedSemaphorePermit,
}

/// The stream of accepted connections.
pub type Acceptor = ReceiverStream<io::Result<Connection>>;

#[derive(Debug, thiserror::Error)]
enum RefusedError {
    #[error("no TLS handshake within {0:?}")]
    TooSlow(Duration),
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the client sent no certificate")]
    NoCertificate,
    #[error("the client's certificate names nobody")]
    Identity(#[from] IdentityError),
    #[error("{0} is not of the trust domain {1}")]
    Domain(Identity, String),
}

/// Starts to accept on `listener`, until `stop` is cancelled.
pub fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    own: Identity,
    limits: Limits,
    stop: CancellationToken,
) -> Acceptor {
    let (accepted, stream) = mpsc::channel(ACCEPTED_QUEUED);
    tokio::spawn(async move {
        let door = Arc::new(Door {
            tls: TlsAcceptor::from(tls),
            own,
            limits,
        });
        let slots = Arc::new(Semaphore::new(limits.connections_max));
        loop {
            let next = tokio::select! {
                next = listener.accept() => next,
                () = stop.cancelled() => return,
                () = accepted.closed() => return,
            };
            let (socket, address) = match next {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!(
                    %address,
                    connections_max = limits.connections_max,
                    "a connection was refused: there are too many"
                );
                continue;
            };
            let (door, accepted) = (Arc::clone(&door), accepted.clone());
            tokio::spawn(async move {
                match door.admit(socket, address, slot).await {
                    Ok(connection) => {
                        let _ = accepted.send(Ok(connection)).await;
                    }
                    Err(error) => {
                        tracing::warn!(%address, error = chain(&error), "a connection was refused");
                    }
                }
            });
        }
    });
    ReceiverStream::new(stream)
}

struct Door {
    tls: TlsAcceptor,
    own: Identity,
    limits: Limits,
}

impl Door {
    async fn admit(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) -> Result<Connection, RefusedError> {
        // Acknowledgements are small and somebody waits for them.
        socket.set_nodelay(true).map_err(RefusedError::Handshake)?;
        let limit = self.limits.handshake_timeout;
        let stream = timeout(limit, self.tls.accept(socket))
            .await
            .map_err(|_| RefusedError::TooSlow(limit))?
            .map_err(RefusedError::Handshake)?;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .ok_or(RefusedError::NoCertificate)?;
        let identity = Identity::from_certificate(certificate)?;
        if identity.domain() != self.own.domain() {
            return Err(RefusedError::Domain(identity, self.own.domain().to_owned()));
        }
        Ok(Connection {
            stream,
            peer: Peer { identity, address },
            _slot: slot,
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
