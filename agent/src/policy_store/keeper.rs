//! Keeping policies without waiting for a disk that does not answer.
//!
//! A set is to be on the disk before it is in force. But a frozen file system
//! must not keep a policy out of the kernel, so a thread writes, and whoever
//! applies waits for it a bounded time.

use std::{
    io,
    sync::mpsc::{self, SyncSender, TrySendError},
    thread,
    time::Duration,
};

use shrike_proto::{id::Generation, policy::PolicySet};
use tokio::{sync::oneshot, time::timeout};

use super::PolicyStore;

/// Longest wait for the disk. Sets are small; a busy disk takes tenths of that.
const KEEP_TIMEOUT: Duration = Duration::from_secs(2);

/// What waits for a disk that does not answer: some pushes.
const ORDERS_MAX: usize = 8;

enum Order {
    Keep(Box<PolicySet>, oneshot::Sender<io::Result<()>>),
    ForgetBut(Generation),
}

/// The store, behind a thread.
#[derive(Debug)]
pub struct PolicyKeeper {
    orders: SyncSender<Order>,
}

impl PolicyKeeper {
    /// Starts the thread, which ends with this.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn start(store: PolicyStore) -> io::Result<Self> {
        let (orders, to_do) = mpsc::sync_channel(ORDERS_MAX);
        thread::Builder::new()
            .name("policy-store".to_owned())
            .spawn(move || {
                for order in to_do {
                    match order {
                        // Who does not wait any more sees it at the next start.
                        Order::Keep(set, kept) => drop(kept.send(store.keep(&set))),
                        Order::ForgetBut(in_force) => store.forget_but(in_force),
                    }
                }
            })?;
        Ok(Self { orders })
    }

    /// Keeps a set: when this returns it is on the disk, or an error.
    ///
    /// # Errors
    /// What the system said; `TimedOut` when the disk does not answer, which
    /// has the set written as soon as it does.
    pub async fn keep(&self, set: PolicySet) -> io::Result<()> {
        let (kept, answer) = oneshot::channel();
        self.order(Order::Keep(Box::new(set), kept))?;
        match timeout(KEEP_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(no_answer()),
        }
    }

    /// Forgets all but the set in force and the one before it, later.
    pub fn forget_but(&self, in_force: Generation) {
        if let Err(error) = self.order(Order::ForgetBut(in_force)) {
            tracing::warn!(%error, "old policies stay");
        }
    }

    fn order(&self, order: Order) -> io::Result<()> {
        self.orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => no_answer(),
            TrySendError::Disconnected(_) => io::ErrorKind::BrokenPipe.into(),
        })
    }
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn set(generation: u64) -> PolicySet {
        PolicySet {
            generation: Generation(generation),
            policies: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_on_the_disk_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let store = PolicyStore::new(folder.path().join("state"));
        let keeper = PolicyKeeper::start(store.clone()).unwrap();
        for generation in 1..=4 {
            keeper.keep(set(generation)).await.unwrap();
            keeper.forget_but(Generation(generation));
        }
        keeper.keep(set(5)).await.unwrap();
        let kept: Vec<u64> = store.read().iter().map(|set| set.generation.0).collect();
        assert_eq!(kept, [5, 4, 3]);
    }

    /// A FIFO that nobody reads: whoever opens it to write waits.
    #[tokio::test(start_paused = true)]
    async fn a_disk_that_does_not_answer_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("new");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(fifo.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let keeper = PolicyKeeper::start(PolicyStore::new(folder.path().to_owned())).unwrap();
        let error = keeper.keep(set(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        for generation in 2..2 + ORDERS_MAX as u64 {
            keeper.forget_but(Generation(generation));
        }
        let error = keeper.keep(set(9)).await.unwrap_err();
        assert_eq!(error.to_string(), "the disk does not answer");
        // Lets the thread end.
        let reader = std::fs::OpenOptions::new().read(true).open(&fifo);
        assert!(reader.is_ok());
    }
}
