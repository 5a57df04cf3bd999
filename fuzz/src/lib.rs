//! What the fuzz targets share: an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static TAKEN: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts the bytes that each thread has taken.
pub struct Counting;

fn count(bytes: isize) {
    // A thread that ends has nothing to count any more.
    let _ = TAKEN.try_with(|taken| {
        taken.set(taken.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(taken.get())));
    });
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: everything is passed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new run may be there at once.
        count(signed(size));
        let moved = unsafe { System.realloc(pointer, layout, size) };
        count(-signed(layout.size()));
        moved
    }
}

/// Runs something that may take at most so many bytes more than are taken, at any moment.
///
/// # Panics
///
/// If it takes more.
pub fn within<T>(most_bytes: usize, run: impl FnOnce() -> T) -> T {
    let before = TAKEN.get();
    PEAK.set(before);
    let result = run();
    let taken = PEAK.get() - before;
    assert!(
        taken <= signed(most_bytes),
        "{taken} bytes were taken, {most_bytes} are the most"
    );
    result
}
