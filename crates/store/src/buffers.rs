//! How much memory pipelines may use: buffers that go round, and so many of them.
//!
//! ```text
//!   Buffers (the store's) ─▶ Share (a pipeline's) ─▶ Supply (a stage's) ─▶ Buffer
//!                                                      ▲                      │ dropped
//!                                                      └──────────────────────┘
//! ```
//! A stage that is ahead waits for a buffer to come back, so a slow stage slows down the ones before it. Each pipeline has a
//! few for itself until it ends: none can wait for another one in the middle. It borrows more while there are plenty: what is
//! slow is one stage where files are many and another where they are long, and a stage that may run far ahead in the one part
//! keeps the other busy in the next. What was used last is used first, as it is in the caches still.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How much a buffer holds, in bytes: many times what handing it over costs, and little enough to be in the caches still when
/// the next stage reads it.
pub(crate) const CHUNK: usize = 256 << 10;
/// Buffers of all pipelines together.
const ALL: usize = (96 << 20) / CHUNK;
/// Of those, what is not lent, so that another pipeline can begin at once. What is lent comes back as soon as there is less.
const KEPT: usize = ALL / 2;
/// The most buffers of a tar that is being made.
pub(crate) const MOST: usize = (40 << 20) / CHUNK;
/// The most of a tar that comes as it is: what brings it is always ahead, and what lies waiting leaves the caches.
const MOST_ALONE: usize = (16 << 20) / CHUNK;
/// The most of what comes in compressed: it goes further.
const MOST_COMPRESSED: usize = (4 << 20) / CHUNK;
/// A pipeline's own buffers: every stage has one, and one lies between it and the next. There are enough for forty.
const OWN: usize = 6;

/// How many buffers pipelines may have in all.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    free: Mutex<usize>,
    returned: Condvar,
}

/// A pipeline's part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share(Arc<Pool>);

impl Default for Pool {
    fn default() -> Self {
        Self { free: Mutex::new(ALL), returned: Condvar::new() }
    }
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a buffer if there are plenty.
    fn lend(&self) -> bool {
        let mut free = self.free();
        let plenty = *free > KEPT;
        *free -= usize::from(plenty);
        plenty
    }

    fn is_short(&self) -> bool {
        *self.free() < KEPT
    }

    fn give_back(&self, buffers: usize) {
        *self.free() += buffers;
        self.returned.notify_all();
    }
}

impl Buffers {
    /// A share for one pipeline. Waits while more than forty pipelines run.
    pub(crate) fn share(&self) -> Share {
        let enough = |free: &mut usize| *free < OWN;
        let waited = self.0.returned.wait_while(self.0.free(), enough);
        *waited.unwrap_or_else(PoisonError::into_inner) -= OWN;
        Share(Arc::clone(&self.0))
    }
}

impl Share {
    /// Splits it between the two streams of a pipeline, the one that comes in and the one that is made of it, in favour of
    /// the latter: it is the longer one.
    pub(crate) fn supplies(&self) -> (Supply, Supply) {
        (self.part(OWN / 3, MOST_COMPRESSED), self.part(OWN - OWN / 3, MOST))
    }

    /// All of it for a pipeline of one stream.
    pub(crate) fn supply(&self) -> Supply {
        self.part(OWN, MOST_ALONE)
    }

    fn part(&self, own: usize, most: usize) -> Supply {
        let stock = Mutex::new(Stock { empty: Vec::new(), made: 0 });
        Supply(Arc::new(Shelf { pool: Arc::clone(&self.0), own, most, stock, returned: Condvar::new() }))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.give_back(OWN);
    }
}

/// Where a stage gets its empty buffers.
#[derive(Debug)]
pub(crate) struct Supply(Arc<Shelf>);

/// A supply's buffers. Those beyond its own are borrowed, and go back with it at the latest.
#[derive(Debug)]
struct Shelf {
    pool: Arc<Pool>,
    own: usize,
    most: usize,
    stock: Mutex<Stock>,
    returned: Condvar,
}

#[derive(Debug)]
struct Stock {
    empty: Vec<Vec<u8>>,
    /// How many there are, those that travel included.
    made: usize,
}

impl Supply {
    /// A buffer; waits until there is one. What is in it is of no use.
    pub(crate) fn buffer(&mut self) -> Buffer {
        let mut stock = self.0.stock();
        loop {
            if let Some(bytes) = stock.empty.pop() {
                return Buffer { bytes, home: Arc::clone(&self.0) };
            }
            let borrows = stock.made >= self.0.own;
            if !borrows || stock.made < self.0.most && self.0.pool.lend() {
                stock.made += 1;
                drop(stock);
                return Buffer { bytes: vec![0; CHUNK], home: Arc::clone(&self.0) };
            }
            stock = self.0.returned.wait(stock).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shelf {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, bytes: Vec<u8>) {
        let mut stock = self.stock();
        if stock.made > self.own && self.pool.is_short() {
            stock.made -= 1;
            drop((stock, bytes));
            return self.pool.give_back(1);
        }
        stock.empty.push(bytes);
        self.returned.notify_one();
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let made = self.stock().made;
        self.pool.give_back(made.saturating_sub(self.own));
    }
}

/// It goes back to its supply when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Shelf>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(budget: &Buffers) -> usize {
        *budget.0.free()
    }

    /// As many of one supply as there are without waiting.
    fn ahead(supply: &mut Supply) -> Vec<Buffer> {
        (0..MOST).map_while(|n| (n < OWN || free_of(supply) > KEPT).then(|| supply.buffer())).collect()
    }

    fn free_of(supply: &Supply) -> usize {
        *supply.0.pool.free()
    }

    #[test]
    fn all_pipelines_together_keep_to_the_budget() {
        const { assert!(40 * OWN <= ALL && MOST < ALL - KEPT) };
        let budget = Buffers::default();
        let mut all: Vec<_> = (0..ALL / OWN).map(|_| budget.share()).collect();
        assert!(free(&budget) < OWN);
        std::thread::scope(|scope| {
            let late = scope.spawn(|| budget.share());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!late.is_finished());
            all.pop();
            // One that is there has its own, and nothing is lent to it.
            let mut supply = all[0].supply();
            let chunks: Vec<_> = (0..OWN).map(|_| supply.buffer()).collect();
            drop(late.join().unwrap());
            drop(chunks);
        });
        drop(all);
        assert_eq!(free(&budget), ALL);
    }

    #[test]
    fn what_is_lent_comes_back_when_others_come() {
        let budget = Buffers::default();
        let (first, second) = (budget.share(), budget.share());
        let (mut one, mut two) = (first.part(OWN, MOST), second.part(OWN, MOST));
        let mut far = ahead(&mut one);
        assert_eq!((far.len(), free(&budget)), (MOST, ALL - 2 * OWN - (MOST - OWN)));
        let near = ahead(&mut two);
        assert!(near.len() > OWN && free(&budget) == KEPT, "{}", near.len());
        // Kept while there are plenty, given away when there are not.
        drop(near);
        assert_eq!(free(&budget), KEPT);
        let third = budget.share();
        far.truncate(MOST - OWN);
        assert_eq!(free(&budget), KEPT);
        drop((far, third));
        assert!(one.0.stock().made > OWN);
        drop((one, two, first, second));
        assert_eq!(free(&budget), ALL);
    }
}
