//! A listing of footers, page by page: where it stands is a key, so that
//! blocks may come and go between two pages.

use std::{collections::VecDeque, ops::Bound};

use super::{
    Order, Store, StoreError,
    block::{BlockKey, Footer, sortable},
};

/// Footers in one page: some milliseconds, in which no blocks are merged.
pub const PAGE_FOOTERS: usize = 256;

/// Where a listing stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The keys that are left, encoded.
    pub low: Bound<Vec<u8>>,
    /// See `low`.
    pub high: Bound<Vec<u8>>,
    /// From which end.
    pub order: Order,
    /// Nothing is left.
    pub is_done: bool,
}

impl Listing {
    /// Begins a listing of blocks whose oldest event lies in
    /// `[from_unix_ns, until_unix_ns)`.
    pub fn new(from_unix_ns: i64, until_unix_ns: i64, order: Order) -> Self {
        let from = sortable(from_unix_ns).to_vec();
        let until = sortable(until_unix_ns.max(from_unix_ns)).to_vec();
        Self {
            low: Bound::Included(from),
            high: Bound::Excluded(until),
            order,
            is_done: from_unix_ns >= until_unix_ns,
        }
    }

    /// Goes on behind a key.
    pub fn pass(&mut self, key: Vec<u8>) {
        match self.order {
            Order::OldestFirst => self.low = Bound::Excluded(key),
            Order::NewestFirst => self.high = Bound::Excluded(key),
        }
    }

    /// Says whether a block would not be listed any more.
    pub fn has_passed(&self, key: &BlockKey) -> bool {
        let key = key.encode();
        self.is_done
            || match (self.order, &self.low, &self.high) {
                (Order::OldestFirst, Bound::Excluded(low), _) => key <= *low,
                (Order::NewestFirst, _, Bound::Excluded(high)) => key >= *high,
                (Order::OldestFirst, _, _) | (Order::NewestFirst, _, _) => false,
            }
    }
}

/// Lists all footers of a listing.
pub fn all<S: Store + ?Sized>(
    store: &S,
    mut listing: Listing,
) -> impl Iterator<Item = Result<(BlockKey, Footer), StoreError>> + Send {
    let mut page = VecDeque::new();
    std::iter::from_fn(move || {
        while page.is_empty() && !listing.is_done {
            page = store.page(&mut listing).into();
        }
        page.pop_front()
    })
}
