//! What std would otherwise bring: memory and the way out of a panic.

use alloc::string::ToString;
use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;

use crate::end;

/// musl's allocator.
struct Malloc;

/// What malloc guarantees on x86-64 (`max_align_t`).
const MALLOC_ALIGNMENT: usize = 16;

// SAFETY: malloc, aligned_alloc, realloc and free meet the contract; sizes are never zero there.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= MALLOC_ALIGNMENT {
            // SAFETY: any size is allowed.
            unsafe { libc::malloc(layout.size()) }.cast()
        } else {
            // SAFETY: a layout's alignment is a power of two.
            unsafe { libc::aligned_alloc(layout.align(), layout.size()) }.cast()
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= MALLOC_ALIGNMENT {
            // SAFETY: any size is allowed; fresh pages are not zeroed a second time.
            return unsafe { libc::calloc(1, layout.size()) }.cast();
        }
        // SAFETY: the same layout that this function was given.
        let pointer = unsafe { self.alloc(layout) };
        if !pointer.is_null() {
            // SAFETY: just allocated with this size.
            unsafe { pointer.write_bytes(0, layout.size()) };
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, _: Layout) {
        // SAFETY: it came from malloc or aligned_alloc.
        unsafe { libc::free(pointer.cast()) };
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        if layout.align() <= MALLOC_ALIGNMENT {
            // SAFETY: it came from malloc.
            return unsafe { libc::realloc(pointer.cast(), new_bytes) }.cast();
        }
        // SAFETY: the alignment is that of a valid layout and the caller vouches for the new size.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_bytes, layout.align()) };
        // SAFETY: as in `alloc`.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both are valid for the smaller of the two sizes and do not overlap.
            unsafe {
                new.copy_from_nonoverlapping(pointer, layout.size().min(new_bytes));
                self.dealloc(pointer, layout);
            }
        }
        new
    }
}

// The C library, for which std would otherwise ask.
#[link(name = "c", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

#[global_allocator]
static MALLOC: Malloc = Malloc;

/// A panic is an error like any other: it is sent to the host and ends the box.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    end::after_panic(&info.to_string())
}

/// `core` and `alloc` come compiled for unwinding and refer to its entry points. Nothing unwinds
/// under `panic = "abort"`, so they are never reached.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}
