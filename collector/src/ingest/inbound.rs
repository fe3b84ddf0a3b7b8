//! Takes a message's share of the memory before the message is read.
//!
//! ```text
//! HTTP/2 window → [ five bytes say how long ] ─wait for a share→ rest → tonic
//! ```
//!
//! While a session waits its body is not read, so the connection's window
//! fills and the agent stops sending: nothing fails. Shares queue up in the
//! order of the messages; the session takes one out with each message and
//! keeps it until the batch is settled.
//!
//! A gRPC message is a byte of flags, four of length (big-endian), and that
//! many bytes ("gRPC over HTTP2", Length-Prefixed-Message).

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use shrike_proto::transport::MESSAGE_BYTES_MAX;
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use crate::budget::{Account, Budget, Share};

/// Length of a message's prefix.
const PREFIX_BYTES: usize = 5;

/// What a batch takes for each byte of its message: the message, the payload
/// for the store and the one for live readers, and what its events mention.
const COST_EACH: usize = 4;

/// And for itself: spans, keys, queues.
const COST_FIXED: usize = 4 << 10;

/// What the longest message takes.
pub const COST_MAX: usize = cost(MESSAGE_BYTES_MAX);

const fn cost(message_bytes: usize) -> usize {
    COST_FIXED + COST_EACH * message_bytes
}

/// The shares of messages that the session has yet to take.
#[derive(Debug, Clone, Default)]
pub struct Shares(Arc<Mutex<VecDeque<Share>>>);

impl Shares {
    fn push(&self, share: Share) {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.push_back(share);
    }

    /// Takes the share of the message that was read last.
    pub fn take(&self) -> Option<Share> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.pop_front()
    }
}

/// A service whose requests are metered.
#[derive(Debug, Clone)]
pub struct Metered<S> {
    service: S,
    budget: Budget,
}

impl<S> Metered<S> {
    /// Meters `service`; each of its calls has an account of its own.
    pub fn new(service: S, budget: Budget) -> Self {
        Self { service, budget }
    }
}

impl<S: NamedService> NamedService for Metered<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Metered<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        let account = self.budget.account();
        let shares = Shares::default();
        let mut request = request.map(|body| {
            Body::new(MeteredBody {
                body,
                account,
                shares: shares.clone(),
                unread: Bytes::new(),
                prefix: BytesMut::with_capacity(PREFIX_BYTES),
                message_left: 0,
                waiting: None,
            })
        });
        request.extensions_mut().insert(shares);
        self.service.call(request)
    }
}

struct MeteredBody {
    body: Body,
    account: Account,
    shares: Shares,
    /// What came and was not passed on.
    unread: Bytes,
    prefix: BytesMut,
    /// Bytes of the message under way.
    message_left: usize,
    waiting: Option<Pin<Box<dyn Future<Output = Share> + Send>>>,
}

impl MeteredBody {
    /// Cuts off what may be passed on: a whole prefix, or bytes of a message
    /// that has its share.
    fn poll_cut(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(waiting) = &mut self.waiting {
            let share = ready!(waiting.as_mut().poll(context));
            self.waiting = None;
            self.shares.push(share);
            return Poll::Ready(Some(self.prefix.split().freeze()));
        }
        if self.message_left > 0 {
            let cut = self.unread.len().min(self.message_left);
            self.message_left -= cut;
            return Poll::Ready((cut > 0).then(|| self.unread.split_to(cut)));
        }
        let cut = self.unread.len().min(PREFIX_BYTES - self.prefix.len());
        self.prefix.extend_from_slice(&self.unread.split_to(cut));
        let &[_, a, b, c, d] = &self.prefix[..] else {
            return Poll::Ready(None);
        };
        self.message_left = u32::from_be_bytes([a, b, c, d]) as usize;
        if self.message_left > MESSAGE_BYTES_MAX {
            // It will be refused unread.
            return Poll::Ready(Some(self.prefix.split().freeze()));
        }
        self.waiting = Some(Box::pin(self.account.take(cost(self.message_left))));
        self.poll_cut(context)
    }
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(cut) = ready!(self.poll_cut(context)) {
                return Poll::Ready(Some(Ok(Frame::data(cut))));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.unread = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.unread.is_empty() && self.waiting.is_none() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{FutureExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        message.resize(PREFIX_BYTES + length, 7);
        message
    }

    fn metered(bytes: Vec<u8>, piece: usize, budget: &Budget) -> (MeteredBody, Shares) {
        let pieces: Vec<_> = bytes
            .chunks(piece)
            .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let shares = Shares::default();
        let body = MeteredBody {
            body: Body::new(StreamBody::new(stream::iter(pieces))),
            account: budget.account(),
            shares: shares.clone(),
            unread: Bytes::new(),
            prefix: BytesMut::new(),
            message_left: 0,
            waiting: None,
        };
        (body, shares)
    }

    #[test]
    fn messages_come_through_as_they_were_however_they_are_cut() {
        let bytes = [message(3), message(0), message(100)].concat();
        for piece in [1, 2, 5, 7, 64, 1000] {
            let (body, shares) = metered(bytes.clone(), piece, &Budget::new(COST_MAX));
            let read = body.collect().now_or_never().unwrap().unwrap().to_bytes();
            assert_eq!(read, bytes, "in pieces of {piece}");
            assert_eq!(shares.0.lock().unwrap().len(), 3);
        }
    }

    #[test]
    fn message_is_not_read_before_it_has_its_share() {
        let budget = Budget::new(cost(50));
        let (mut body, shares) = metered([message(50), message(50)].concat(), 1000, &budget);
        let mut read = 0;
        while let Some(frame) = body.frame().now_or_never() {
            read += frame.unwrap().unwrap().into_data().unwrap().len();
        }
        assert_eq!(read, PREFIX_BYTES + 50);
        drop(shares.take());
        let rest = body.collect().now_or_never().unwrap().unwrap().to_bytes();
        assert_eq!(rest.len(), PREFIX_BYTES + 50);
    }

    #[test]
    fn message_past_the_limit_takes_no_share() {
        let bytes = message(MESSAGE_BYTES_MAX + 1)[..20].to_vec();
        let (body, shares) = metered(bytes, 1000, &Budget::new(1));
        assert!(body.collect().now_or_never().is_some());
        assert!(shares.take().is_none());
    }
}
