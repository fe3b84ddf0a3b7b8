//! Taking records out of the ring without ever blocking the runtime.

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, timeout_at},
};

/// Records taken in one call: some milliseconds of work, after which others
/// get their turn.
pub const RECORDS_PER_CALL_MAX: usize = 4096;

/// The programs wake the reader only when much is waiting or a verdict kills;
/// the reader looks on its own as often as this, which bounds the delay of an
/// event on a quiet machine.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The ring, from the reader's side.
pub struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
    look_at: Instant,
}

impl Ring {
    /// Takes over the ring. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When the descriptor cannot be polled.
    pub fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the map owns its descriptor and gives out the same one for
        // as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) }?;
        Ok(Self {
            ring,
            look_at: Instant::now(),
        })
    }

    /// Hands over what is in the ring, at most [`RECORDS_PER_CALL_MAX`]
    /// records. Returns how many that were.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) -> usize {
        let ring = self.ring.get_mut();
        let mut taken = 0;
        while taken < RECORDS_PER_CALL_MAX {
            let Some(record) = ring.next() else {
                break;
            };
            take(&record);
            taken += 1;
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        taken
    }

    /// Waits until it is time to look into the ring: much is waiting, or the
    /// last look was long enough ago. Waiting again goes on where a cancelled
    /// wait ended.
    ///
    /// # Errors
    /// When the descriptor cannot be polled.
    pub async fn wait(&mut self) -> io::Result<()> {
        match timeout_at(self.look_at, self.ring.readable_mut()).await {
            Ok(guard) => {
                guard?.clear_ready();
                Ok(())
            }
            Err(_elapsed) => Ok(()),
        }
    }
}
