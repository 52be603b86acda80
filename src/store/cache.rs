//! What was read at one value of the commit counter, and is true as long as it stays.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::{Filter, Found, Meta};

/// How many searches with at most one result are remembered: 7/8 of 2^17, where the table of
/// 5 MiB would double.
const SINGLE: usize = 114_688;
/// How many with a few results, and how many those may be.
const SEVERAL: usize = 1024;
const ROWS: usize = 16;

#[derive(Default)]
pub(super) struct Cache {
    counter: u64,
    single: HashMap<Name, Option<Found>>,
    several: HashMap<Name, Box<[Found]>>,
    meta: Option<Meta>,
    hashers: [RandomState; 2],
}

/// A filter, by two keyed hashes: nobody can make two filters with the same.
type Name = [u64; 2];

impl Cache {
    /// The first `limit` objects that match.
    pub(super) fn search(&self, counter: u64, filter: &Filter, limit: usize) -> Option<Vec<Found>> {
        if counter != self.counter {
            return None;
        }
        let name = self.name(filter);
        if let Some(single) = self.single.get(&name) {
            return Some(single.iter().take(limit).copied().collect());
        }
        self.several.get(&name).map(|several| several.iter().take(limit).copied().collect())
    }

    pub(super) fn meta(&self, counter: u64) -> Option<Meta> {
        self.meta.as_ref().filter(|_| counter == self.counter).cloned()
    }

    /// Remembers a search for the first `limit`, made while the counter had this value.
    pub(super) fn put_search(&mut self, counter: u64, filter: &Filter, limit: usize, found: &[Found]) {
        let complete = found.len() < limit;
        if !complete || found.len() > ROWS || !self.advance(counter) {
            return;
        }
        let name = self.name(filter);
        match found {
            [] | [_] => {
                let single = found.first().copied();
                if self.single.len() >= SINGLE {
                    self.single.clear();
                }
                self.single.insert(name, single);
            }
            several => {
                if self.several.len() >= SEVERAL {
                    self.several.clear();
                }
                self.several.insert(name, several.into());
            }
        }
    }

    pub(super) fn put_meta(&mut self, counter: u64, meta: &Meta) {
        if self.advance(counter) {
            self.meta = Some(meta.clone());
        }
    }

    pub(super) fn forget_meta(&mut self) {
        self.meta = None;
    }

    /// Forgets what is older. False if the cache is ahead already.
    fn advance(&mut self, counter: u64) -> bool {
        if counter > self.counter {
            self.counter = counter;
            self.single.clear();
            self.several.clear();
            self.meta = None;
        }
        counter == self.counter
    }

    fn name(&self, filter: &Filter) -> Name {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(filter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(label: u64) -> Filter {
        Filter { labels: Some(vec![label.to_be_bytes().to_vec()]), ..Filter::default() }
    }

    #[test]
    fn a_search_is_remembered_for_one_value_of_the_counter() {
        let found = |row| Found { row, object: [row as u8; 16] };
        let mut cache = Cache::default();
        cache.put_search(2, &filter(1), 10, &[found(1)]);
        cache.put_search(2, &filter(2), 10, &[]);
        cache.put_search(2, &filter(3), 10, &[found(1), found(2)]);
        cache.put_search(2, &filter(4), 2, &[found(1), found(2)]);
        assert_eq!(cache.search(2, &filter(1), 5), Some(vec![found(1)]));
        assert_eq!(cache.search(2, &filter(1), 0), Some(vec![]));
        assert_eq!(cache.search(2, &filter(2), 5), Some(vec![]));
        assert_eq!(cache.search(2, &filter(3), 1), Some(vec![found(1)]));
        assert_eq!(cache.search(2, &filter(4), 2), None, "there may be more");
        assert_eq!(cache.search(2, &filter(5), 2), None);
        assert_eq!(cache.search(4, &filter(1), 5), None);
        cache.put_search(4, &filter(9), 5, &[]);
        assert_eq!(cache.search(2, &filter(1), 5), None);
        cache.put_search(2, &filter(1), 10, &[found(1)]);
        assert_eq!(cache.search(2, &filter(1), 5), None, "what was read earlier is not put in later");
        assert_eq!(cache.search(4, &filter(9), 5), Some(vec![]));
    }

    #[test]
    fn it_stays_small() {
        let mut cache = Cache::default();
        for label in 0..300_000 {
            cache.put_search(2, &filter(label), 10, &[]);
        }
        assert!(cache.single.capacity() <= SINGLE && size_of::<(Name, Option<Found>)>() <= 48);
    }
}
