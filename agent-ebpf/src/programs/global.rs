//! Values that programs reach without a look-up: a static in a section that
//! the loader makes a map of, whose address is a constant to the verifier.

use core::cell::UnsafeCell;

/// A table of words, or of anything that is read and written as whole words.
#[repr(transparent)]
pub struct Global<T>(UnsafeCell<T>);

// SAFETY: it is only reached through pointers, and each access is a volatile
// or atomic one of a word.
unsafe impl<T> Sync for Global<T> {}

impl<T> Global<T> {
    /// Makes one.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
}

impl<T: Copy> Global<T> {
    /// Reads a word.
    #[inline(always)]
    pub fn get(&self) -> T {
        // SAFETY: a live static of one word.
        unsafe { core::ptr::read_volatile(self.0.get()) }
    }

    /// Returns its place, for what is added atomically.
    #[inline(always)]
    pub fn place(&self) -> *mut T {
        self.0.get()
    }
}

impl<T: Copy, const LENGTH: usize> Global<[T; LENGTH]> {
    /// Returns the place of an element of a table whose length is a power of
    /// two. The mask is for the verifier.
    #[inline(always)]
    pub fn element(&self, index: usize) -> *mut T {
        const { assert!(LENGTH.is_power_of_two()) };
        let index = crate::memory::hide(index as u64) as usize & (LENGTH - 1);
        // SAFETY: the index is below the length.
        unsafe { self.0.get().cast::<T>().add(index) }
    }
}
