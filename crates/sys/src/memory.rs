//! The C library's allocator, for processes that must stay small.

/// Gives freed memory back to the kernel where the C library can.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that matter; thread-safe.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Tunes the allocator for a small process: one arena for all threads, memory given back early. Call it first in
/// `main`.
pub fn keep_small() {
    tune(1);
}

/// As [`keep_small`], with so many arenas for a process whose threads allocate at once.
pub fn tune(arenas: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: documented parameters with sensible values.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas.max(1));
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
}

/// Overwrites bytes in a way that the optimiser does not remove: plans hold environments with secrets.
pub fn wipe(bytes: &mut [u8]) {
    for byte in bytes {
        // SAFETY: a valid, exclusive reference.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
}
