//! The frames between the host and the runner inside a machine.
//!
//! ```text
//! ┌─────────────┬──────────────┬────────────┬─────────┐
//! │ header: u32 │ payload: u32 │ header     │ payload │
//! │ bytes, LE   │ bytes, LE    │ JSON       │ bytes   │
//! └─────────────┴──────────────┴────────────┴─────────┘
//! ```
//!
//! A virtio-serial port is a plain byte stream in both directions. Output is
//! carried as raw bytes, never as text: a test may look at any of them.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Above this a frame is garbage: no header comes near it, and senders cut
/// payloads into pieces of [`PIECE_MAX`] except for whole files.
const FRAME_MAX: usize = 64 << 20;

/// How much output one frame carries at most.
pub const PIECE_MAX: usize = 64 << 10;

/// The name that both ends know the port by.
pub const PORT: &str = "shrike";

/// What the host asks for. `id` is the job's, chosen by the host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Request {
    /// Starts a program; its environment is the runner's and these.
    Spawn {
        /// The job.
        id: u32,
        /// Program and arguments.
        argv: Vec<String>,
        /// Variables added to the environment.
        env: Vec<(String, String)>,
    },
    /// Sends a signal to a running job.
    Signal {
        /// The job.
        id: u32,
        /// The signal's number.
        signal: i32,
    },
    /// Writes the payload to a file, whole.
    Write {
        /// The job.
        id: u32,
        /// Where to.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Asks for a file's contents.
    Read {
        /// The job.
        id: u32,
        /// Where from.
        path: String,
    },
}

/// What the runner says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Reply {
    /// The machine is up.
    Hello {
        /// `uname -r`.
        release: String,
    },
    /// A job runs.
    Started {
        /// The job.
        id: u32,
        /// Its process.
        pid: u32,
    },
    /// A job wrote the payload to stdout.
    Stdout {
        /// The job.
        id: u32,
    },
    /// A job wrote the payload to stderr.
    Stderr {
        /// The job.
        id: u32,
    },
    /// A job ended, after all of its output.
    Ended {
        /// The job.
        id: u32,
        /// How.
        outcome: Outcome,
    },
    /// A file was written or read (then the payload is what it holds).
    Done {
        /// The job.
        id: u32,
    },
    /// A request could not be carried out.
    Failed {
        /// The job.
        id: u32,
        /// Why.
        error: String,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Outcome {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Outcome {
    /// Exited with 0.
    pub const SUCCESS: Self = Self::Code(0);
}

/// Writes one frame.
///
/// # Errors
/// When the stream does.
pub fn send<H: Serialize>(stream: &mut impl Write, header: &H, payload: &[u8]) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    let mut frame = Vec::with_capacity(8 + header.len() + payload.len());
    frame.extend_from_slice(&length(header.len())?.to_le_bytes());
    frame.extend_from_slice(&length(payload.len())?.to_le_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(payload);
    stream.write_all(&frame)?;
    stream.flush()
}

/// Reads one frame.
///
/// # Errors
/// When the stream ends or what it carries is no frame.
pub fn receive<H: DeserializeOwned>(stream: &mut impl Read) -> io::Result<(H, Vec<u8>)> {
    let mut lengths = [0; 8];
    stream.read_exact(&mut lengths)?;
    let [a, b, c, d, e, f, g, h] = lengths;
    let header_length = u32::from_le_bytes([a, b, c, d]) as usize;
    let payload_length = u32::from_le_bytes([e, f, g, h]) as usize;
    if header_length > FRAME_MAX || payload_length > FRAME_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {header_length} + {payload_length} bytes"),
        ));
    }
    let mut header = vec![0; header_length];
    stream.read_exact(&mut header)?;
    let mut payload = vec![0; payload_length];
    stream.read_exact(&mut payload)?;
    Ok((serde_json::from_slice(&header)?, payload))
}

fn length(bytes: usize) -> io::Result<u32> {
    if bytes > FRAME_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{bytes} bytes do not go into one frame"),
        ));
    }
    Ok(u32::try_from(bytes).expect("FRAME_MAX fits"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_frame_comes_back_as_it_went(
            path in ".*",
            mode in any::<u32>(),
            id in any::<u32>(),
            payload in proptest::collection::vec(any::<u8>(), 0..1000),
        ) {
            let request = Request::Write { id, path, mode };
            let mut stream = Vec::new();
            send(&mut stream, &request, &payload).expect("memory takes it");
            let (back, bytes) = receive::<Request>(&mut &stream[..]).expect("it is a frame");
            prop_assert_eq!(back, request);
            prop_assert_eq!(bytes, payload);
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(
            garbage in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = receive::<Reply>(&mut &garbage[..]);
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_memory_is_taken() {
        let frame = [0xff; 8];
        let error = receive::<Reply>(&mut &frame[..]).expect_err("too large");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
