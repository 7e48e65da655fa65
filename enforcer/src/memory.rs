//! How the allocator treats what lives for a moment: an agent's memory counts on every node.

/// From this many bytes on a piece of memory goes back to the system as soon as it is free: images
/// are 16 MiB and live for milliseconds.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Tells the allocator, before there are other threads. Left to itself it keeps the room of the first
/// image for the next one, and an arena for every thread.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in
        [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE), (libc::M_ARENA_MAX, 1)]
    {
        // SAFETY: sets a number of the allocator; a value that it does not like changes nothing.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Gives back what is free: after a change that is most of what reading and compiling took. Takes
/// milliseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
