//! What an agent sends, message by message, each with its share of the memory.
//!
//! ```text
//! HTTP/2 window → [ five bytes say how long ] ─wait for a share→ rest → message
//! ```
//!
//! While a session waits its stream is not read, so the connection's window
//! fills and the agent stops sending: nothing fails. The share is kept with
//! the batch until that is settled.
//!
//! tonic's own reader keeps a buffer as long as the longest message of each
//! stream, and makes it before anybody can say no. So the stream is read here.
//!
//! A gRPC message is a byte of flags, four of length (big-endian), and that
//! many bytes ("gRPC over HTTP2", Length-Prefixed-Message).

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Body as _;
use prost::Message as _;
use shrike_proto::{
    transport::MESSAGE_BYTES_MAX,
    wire::ingest::{StreamEventsRequest, stream_events_request},
};
use tonic::{Request, Status, body::Body, server::NamedService};
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

/// A message and what it takes.
#[derive(Debug)]
pub struct Inbound {
    /// `None` for an empty or unknown one.
    pub message: Option<stream_events_request::Message>,
    /// Of the memory.
    pub share: Share,
}

/// The stream of an agent's messages.
#[derive(Debug)]
pub struct InboundStream {
    body: Body,
    account: Account,
    /// What came and is part of no message yet.
    unread: Bytes,
    state: State,
}

/// How far the next message is.
enum State {
    /// Its prefix, as far as it came.
    Prefix(Vec<u8>),
    /// It waits for its share.
    Waiting {
        length: usize,
        share: Pin<Box<dyn Future<Output = Share> + Send>>,
    },
    /// It has its share; as far as it came.
    Message {
        length: usize,
        share: Share,
        bytes: Vec<u8>,
    },
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefix(_) => "Prefix",
            Self::Waiting { .. } => "Waiting",
            Self::Message { .. } => "Message",
        })
    }
}

impl InboundStream {
    fn new(body: Body, account: Account) -> Self {
        Self {
            body,
            account,
            unread: Bytes::new(),
            state: State::Prefix(Vec::new()),
        }
    }

    /// Takes the stream out of a request that came through [`Metered`].
    ///
    /// # Errors
    /// `INTERNAL` for another one, which would be our own mistake.
    pub fn take<T>(request: &Request<T>) -> Result<Self, Status> {
        let slot = request.extensions().get::<Slot>();
        let stream = slot.and_then(|slot| {
            let mut slot = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
            slot.take()
        });
        stream.ok_or_else(|| Status::internal("the stream is not metered"))
    }

    /// Reads the next message; `None` at the end. What was read is kept where
    /// the caller stops waiting, and so is the place in the line.
    ///
    /// # Errors
    /// The status that the stream ends with.
    pub async fn next(&mut self) -> Result<Option<Inbound>, Status> {
        loop {
            match &mut self.state {
                State::Prefix(prefix) => {
                    let count = self.unread.len().min(PREFIX_BYTES - prefix.len());
                    prefix.extend_from_slice(&self.unread.split_to(count));
                    if let &[flags, a, b, c, d] = &prefix[..] {
                        let length = u32::from_be_bytes([a, b, c, d]) as usize;
                        check(flags, length)?;
                        let share = Box::pin(self.account.take(cost(length)));
                        self.state = State::Waiting { length, share };
                    } else {
                        let is_between = prefix.is_empty();
                        if !self.more().await? {
                            return if is_between { Ok(None) } else { Err(cut_off()) };
                        }
                    }
                }
                State::Waiting { length, share } => {
                    let share = share.await;
                    self.state = State::Message {
                        length: *length,
                        share,
                        bytes: Vec::with_capacity(*length),
                    };
                }
                State::Message { length, bytes, .. } if bytes.len() < *length => {
                    let count = self.unread.len().min(*length - bytes.len());
                    bytes.extend_from_slice(&self.unread.split_to(count));
                    let is_whole = bytes.len() == *length;
                    if !is_whole && !self.more().await? {
                        return Err(cut_off());
                    }
                }
                State::Message { .. } => {
                    let between = State::Prefix(Vec::new());
                    let whole = std::mem::replace(&mut self.state, between);
                    let State::Message { share, bytes, .. } = whole else {
                        unreachable!("it was just looked at");
                    };
                    let request = StreamEventsRequest::decode(&bytes[..]).map_err(|error| {
                        Status::invalid_argument(format!("no message: {error}"))
                    })?;
                    return Ok(Some(Inbound {
                        message: request.message,
                        share,
                    }));
                }
            }
        }
    }

    /// Waits for more bytes; false at the end.
    async fn more(&mut self) -> Result<bool, Status> {
        loop {
            match poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await {
                None => return Ok(false),
                Some(frame) => {
                    // Trailers are nothing that an agent says.
                    if let Ok(data) = frame?.into_data()
                        && !data.is_empty()
                    {
                        self.unread = data;
                        return Ok(true);
                    }
                }
            }
        }
    }
}

fn check(flags: u8, length: usize) -> Result<(), Status> {
    if flags != 0 {
        return Err(Status::unimplemented(
            "the message is compressed by gRPC, which was not offered",
        ));
    }
    if length > MESSAGE_BYTES_MAX {
        return Err(Status::out_of_range(format!(
            "the message has {length} bytes, at most {MESSAGE_BYTES_MAX}"
        )));
    }
    Ok(())
}

fn cut_off() -> Status {
    Status::invalid_argument("the stream ends in the middle of a message")
}

/// Where [`Metered`] leaves the stream for the session.
#[derive(Debug, Clone)]
struct Slot(Arc<Mutex<Option<InboundStream>>>);

/// A service whose requests are read as [`InboundStream`].
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
        let (mut parts, body) = request.into_parts();
        let stream = InboundStream::new(body, self.budget.account());
        parts
            .extensions
            .insert(Slot(Arc::new(Mutex::new(Some(stream)))));
        self.service
            .call(http::Request::from_parts(parts, Body::empty()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{FutureExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use shrike_proto::wire::ingest::Batch;
    use tonic::Code;

    use super::*;

    fn request(payload: usize) -> StreamEventsRequest {
        let batch = Batch {
            payload: vec![7; payload],
            ..Batch::default()
        };
        StreamEventsRequest {
            message: Some(stream_events_request::Message::Batch(batch)),
        }
    }

    fn framed(message: &StreamEventsRequest) -> Vec<u8> {
        let encoded = message.encode_to_vec();
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(encoded.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&encoded);
        bytes
    }

    fn inbound(bytes: &[u8], piece: usize, budget: &Budget) -> InboundStream {
        let pieces: Vec<_> = bytes
            .chunks(piece)
            .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let body = Body::new(StreamBody::new(stream::iter(pieces)));
        InboundStream::new(body, budget.account())
    }

    #[test]
    fn messages_come_as_they_were_however_they_are_cut() {
        let requests = [3, 0, 100].map(request);
        let bytes: Vec<u8> = requests.iter().flat_map(framed).collect();
        let budget = Budget::new(COST_MAX);
        for piece in [1, 2, 5, 7, 64, 1000] {
            let mut inbound = inbound(&bytes, piece, &budget);
            for expected in &requests {
                let read = inbound.next().now_or_never().unwrap().unwrap().unwrap();
                assert_eq!(read.message, expected.message, "in pieces of {piece}");
            }
            assert!(inbound.next().now_or_never().unwrap().unwrap().is_none());
        }
    }

    #[test]
    fn message_is_not_read_before_it_has_its_share() {
        let message = framed(&request(50));
        let budget = Budget::new(cost(message.len()));
        let bytes = [message.clone(), message].concat();
        let mut inbound = inbound(&bytes, 10, &budget);
        let first = inbound.next().now_or_never().unwrap().unwrap().unwrap();
        assert!(inbound.next().now_or_never().is_none());
        drop(first);
        // Nothing was lost by not waiting.
        assert!(inbound.next().now_or_never().unwrap().unwrap().is_some());
    }

    #[test]
    fn what_is_no_message_ends_the_stream_with_a_reason() {
        let check = |bytes: &[u8], code: Code| {
            let mut inbound = inbound(bytes, 100, &Budget::new(COST_MAX));
            let status = inbound.next().now_or_never().unwrap().unwrap_err();
            assert_eq!(status.code(), code, "{status}");
        };
        check(&[0, 0, 0], Code::InvalidArgument);
        check(&framed(&request(50))[..20], Code::InvalidArgument);
        check(&[0, 0, 0, 0, 1, 0xff], Code::InvalidArgument);
        check(&[0, 0xff, 0xff, 0xff, 0xff], Code::OutOfRange);
        check(&[1, 0, 0, 0, 0], Code::Unimplemented);
    }
}
