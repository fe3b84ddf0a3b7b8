//! A budget of bytes for what is on its way into the store, shared fairly.
//!
//! ```text
//! sessions ─take→ [ waiting ] ─whoever holds least first→ share ─drop→ back
//! ```
//!
//! Who asks waits until there is room; nobody is refused. Of those who wait
//! the holder of the fewest bytes comes first, and nobody behind it is let
//! past: a quiet session goes before all that flood, and a large request is
//! not starved by small ones.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Bytes to be shared.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    // Held for some dozen instructions, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// Bytes by holder, none that holds nothing.
    holds: HashMap<u64, usize>,
    /// In the order in which they came: each holder has one or two.
    waiting: Vec<Waiting>,
    next_holder: u64,
}

#[derive(Debug)]
struct Waiting {
    holder: u64,
    bytes: usize,
    granted: oneshot::Sender<Share>,
}

/// One of those who share.
#[derive(Debug)]
pub struct Account {
    budget: Budget,
    holder: u64,
}

/// Bytes that are taken until this is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    holder: u64,
    bytes: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Shared {
            bytes_max,
            state: Mutex::default(),
        }))
    }

    /// Opens an account.
    pub fn account(&self) -> Account {
        let mut state = self.state();
        state.next_holder += 1;
        Account {
            holder: state.next_holder,
            budget: self.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives to whoever waits, as far as there is room.
    fn grant(&self, state: &mut State) {
        loop {
            let holds = |holder: &u64| state.holds.get(holder).copied().unwrap_or(0);
            let first = state
                .waiting
                .iter()
                .enumerate()
                .min_by_key(|(index, waiting)| (holds(&waiting.holder), *index));
            let Some((index, waiting)) = first else {
                return;
            };
            if state.taken + waiting.bytes > self.0.bytes_max {
                return;
            }
            let Waiting {
                holder,
                bytes,
                granted,
            } = state.waiting.remove(index);
            let share = Share {
                budget: self.clone(),
                holder,
                bytes,
            };
            match granted.send(share) {
                Ok(()) => {
                    state.taken += bytes;
                    *state.holds.entry(holder).or_default() += bytes;
                }
                // It waits no longer, and its share was never taken.
                Err(mut share) => share.bytes = 0,
            }
        }
    }
}

impl Account {
    /// Takes bytes, as many as there are at most; waits until it is its turn.
    pub fn take(&self, bytes: usize) -> impl Future<Output = Share> + Send + use<> {
        let (granted, share) = oneshot::channel();
        let bytes = bytes.clamp(1, self.budget.0.bytes_max);
        let mut state = self.budget.state();
        state.waiting.push(Waiting {
            holder: self.holder,
            bytes,
            granted,
        });
        self.budget.grant(&mut state);
        drop(state);
        async move { share.await.expect("who waits is granted in the end") }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut state = self.budget.state();
        state.taken -= self.bytes;
        if let Some(held) = state.holds.get_mut(&self.holder) {
            *held -= self.bytes;
            if *held == 0 {
                state.holds.remove(&self.holder);
            }
        }
        self.budget.grant(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_holds_least_comes_first() {
        let budget = Budget::new(10);
        let (noisy, quiet) = (budget.account(), budget.account());
        let first = noisy.take(6).now_or_never().unwrap();
        let second = noisy.take(4).now_or_never().unwrap();
        let (mut more, mut little) = (Box::pin(noisy.take(4)), Box::pin(quiet.take(3)));
        drop(second);
        let little = (&mut little).now_or_never().expect("it held nothing");
        assert!((&mut more).now_or_never().is_none());
        drop(first);
        assert!((&mut more).now_or_never().is_some());
        drop(little);
    }

    #[test]
    fn large_request_is_not_starved_by_small_ones() {
        let budget = Budget::new(10);
        let accounts: Vec<_> = (0..3).map(|_| budget.account()).collect();
        let held = accounts[0].take(5).now_or_never().unwrap();
        let mut large = Box::pin(accounts[1].take(10));
        let mut small = Box::pin(accounts[2].take(1));
        assert!((&mut small).now_or_never().is_none());
        drop(held);
        drop((&mut large).now_or_never().expect("it came first"));
        assert!((&mut small).now_or_never().is_some());
    }

    #[test]
    fn who_gives_up_waiting_takes_nothing() {
        let budget = Budget::new(10);
        let account = budget.account();
        let held = account.take(10).now_or_never().unwrap();
        drop(account.take(10));
        drop(held);
        assert!(account.take(10).now_or_never().is_some());
        assert_eq!(budget.state().taken, 0);
    }

    #[test]
    fn more_than_there_is_means_all_of_it() {
        let budget = Budget::new(10);
        assert!(budget.account().take(11).now_or_never().is_some());
    }

    proptest! {
        #[test]
        fn bound_is_kept_and_everybody_is_served(
            requests in prop::collection::vec((0..5usize, 1..60usize), 1..80),
        ) {
            let budget = Budget::new(100);
            let accounts: Vec<_> = (0..5).map(|_| budget.account()).collect();
            let mut waiting: Vec<_> = requests
                .iter()
                .map(|(holder, bytes)| Box::pin(accounts[*holder].take(*bytes)))
                .collect();
            let mut held: Vec<Share> = Vec::new();
            while !waiting.is_empty() {
                waiting.retain_mut(|share| match share.now_or_never() {
                    Some(share) => {
                        held.push(share);
                        false
                    }
                    None => true,
                });
                let taken: usize = held.iter().map(|share| share.bytes).sum();
                prop_assert!(taken <= 100);
                prop_assert_eq!(taken, budget.state().taken);
                prop_assert!(!held.is_empty(), "nobody is served");
                held.remove(0);
            }
            held.clear();
            prop_assert_eq!(budget.state().taken, 0);
        }
    }
}
