//! The process's own memory.

/// Larger pieces are the kernel's (mallopt(3), `M_MMAP_THRESHOLD`), in bytes.
const OWN_PAGES: libc::c_int = 1 << 20;

/// Lets the allocator take large pieces from the kernel and give them back at once, always. By itself glibc stops doing so
/// for pieces like the largest that was ever freed, and keeps them: after a zstd layer with its window, of up to 32 MiB each.
///
/// Does nothing with another C library than glibc.
pub fn return_large_pieces() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) sets a number of the allocator; every number is good for this one, and memory that was given out
    // before is freed by how it was got.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
    }
}

/// Gives back to the kernel what the allocator keeps of memory that was freed (malloc_trim(3)). After work of many small
/// pieces it would keep most of it for good. Costs a walk over what is free: milliseconds.
///
/// Does nothing with another C library than glibc.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called by any thread at any time, and touches only pages that hold no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_goes_back() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let pieces: Vec<_> = (0..1_000_000_u64).map(|n| vec![n; 4].into_boxed_slice()).collect();
        // The last piece keeps the top of the heap in place.
        let last = pieces.last().cloned();
        drop(pieces);
        give_back();
        let after = resident();
        assert!(last.is_some() && after < 64 << 20, "{after}");
    }
}
