//! Who is on the other side of a connection, and what it may call.

use std::net::SocketAddr;

use shrike_proto::identity::{Identity, Role};
use tonic::{Request, Status, service::Interceptor};

/// The other side of an accepted connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// By its certificate.
    pub identity: Identity,
    /// By its socket.
    pub address: SocketAddr,
}

/// Returns the caller's identity.
///
/// # Errors
/// `UNAUTHENTICATED` on a connection that did not come through the acceptor.
pub fn identity<T>(request: &Request<T>) -> Result<Identity, Status> {
    request
        .extensions()
        .get::<Peer>()
        .map(|peer| peer.identity.clone())
        .ok_or_else(|| Status::unauthenticated("the connection has no client certificate"))
}

/// Lets only one role through.
#[derive(Debug, Clone, Copy)]
pub struct Only(pub Role);

impl Interceptor for Only {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let identity = identity(&request)?;
        if identity.role() == self.0 {
            return Ok(request);
        }
        tracing::warn!(%identity, "a call outside of the caller's role was refused");
        Err(Status::permission_denied(format!(
            "{identity} has the role {}, this service is for the role {}",
            identity.role().as_str(),
            self.0.as_str()
        )))
    }
}
