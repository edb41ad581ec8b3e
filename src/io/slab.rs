//! The ops in flight of a ring, by number: a fixed number of places.

/// Ops in flight at most; a driver lets further ones wait.
pub(super) const OPS_MAX: u32 = 128;

/// The places.
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { places: (0..OPS_MAX).map(|_| None).collect(), free: (0..OPS_MAX).rev().collect() }
    }

    pub(super) fn insert(&mut self, op: T) -> u32 {
        let number = self.free.pop().expect("the caller saw a free place");
        self.places[number as usize] = Some(op);
        number
    }

    pub(super) fn get(&mut self, number: u32) -> &mut T {
        self.places[number as usize].as_mut().expect("the kernel answers what it was asked")
    }

    pub(super) fn remove(&mut self, number: u32) -> T {
        let op = self.places[number as usize].take().expect("the kernel answers what it was asked");
        self.free.push(number);
        op
    }

    /// Empties every place: nobody will answer any more.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::replace(self, Self::new()).places.into_iter().flatten()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == OPS_MAX as usize
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }
}
