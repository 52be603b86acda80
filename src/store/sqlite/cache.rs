//! What was read at one value of the commit counter, and is true as long as it stays.

use std::collections::HashMap;

use crate::store::{Filter, Found, Meta};

/// How many searches are remembered.
const SEARCHES: usize = 2048;
/// Larger results and filters are not worth their memory.
const ROWS: usize = 16;
const FILTER_BYTES: usize = 512;

#[derive(Default)]
pub(super) struct Cache {
    counter: u64,
    searches: HashMap<Filter, Search>,
    meta: Option<Meta>,
}

struct Search {
    found: Box<[Found]>,
    /// Whether these are all.
    complete: bool,
}

impl Cache {
    /// The first `limit` objects that match.
    pub(super) fn search(&self, counter: u64, filter: &Filter, limit: usize) -> Option<Vec<Found>> {
        if counter != self.counter {
            return None;
        }
        let search = self.searches.get(filter)?;
        match search.found.get(..limit) {
            Some(found) => Some(found.to_vec()),
            None => search.complete.then(|| search.found.to_vec()),
        }
    }

    pub(super) fn meta(&self, counter: u64) -> Option<Meta> {
        self.meta.as_ref().filter(|_| counter == self.counter).cloned()
    }

    /// Remembers a search for the first `limit`, made while the counter had this value.
    pub(super) fn put_search(&mut self, counter: u64, filter: &Filter, limit: usize, found: &[Found]) {
        if found.len() > ROWS || weight(filter) > FILTER_BYTES || !self.advance(counter) {
            return;
        }
        if self.searches.len() >= SEARCHES {
            self.searches.clear();
        }
        self.searches.insert(filter.clone(), Search { found: found.into(), complete: found.len() < limit });
    }

    pub(super) fn put_meta(&mut self, counter: u64, meta: &Meta) {
        if self.advance(counter) {
            self.meta = Some(meta.clone());
        }
    }

    /// False if the cache is ahead already.
    fn advance(&mut self, counter: u64) -> bool {
        if counter > self.counter {
            *self = Self { counter, ..Self::default() };
        }
        counter == self.counter
    }
}

fn weight(filter: &Filter) -> usize {
    [&filter.labels, &filter.ids].into_iter().flatten().flatten().map(|value| value.len() + size_of::<Vec<u8>>()).sum()
}
