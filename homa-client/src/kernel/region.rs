//! [`Region`]: the memory into which the module puts messages.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use homa_sys::{HOMA_BPAGE_SIZE, HOMA_RCVBUF_MAX, HOMA_RCVBUF_MIN_BASE};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Where the system tells which processors it could ever have.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// Smallest default; more is taken where many processors need it.
const DEFAULT_BYTES: usize = 64 << 20;

/// Anonymous memory of its own, unmapped when this is dropped.
#[derive(Debug)]
pub(super) struct Region {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

// SAFETY: it is an address and a length. Who may use which bytes is up to `Socket`.
unsafe impl Send for Region {}
// SAFETY: as above; nothing in here changes.
unsafe impl Sync for Region {}

impl Region {
    /// Zeroed memory that a child process does not inherit: the module would write into the
    /// parent's only (A.3).
    pub(super) fn map(length: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: the system chooses an address where nothing is mapped.
        let start = unsafe { mmap_anonymous(None, length, protection, flags)? };
        let region = Self {
            start: start.cast(),
            length,
        };
        // SAFETY: the range was mapped above, and nobody refers to it.
        unsafe { madvise(start, length.get(), MmapAdvise::MADV_DONTFORK)? };
        Ok(region)
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn length(&self) -> usize {
        self.length.get()
    }

    /// Address of the bytes from `offset` on; `None` if there are fewer than `length`.
    pub(super) fn at(&self, offset: u32, length: usize) -> Option<NonNull<u8>> {
        let offset = offset as usize;
        let fits = offset.checked_add(length)? <= self.length.get();
        // SAFETY: the result is in the mapping, or one past its end if `length` is 0.
        fits.then(|| unsafe { self.start.add(offset) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`. The socket that writes into it is closed, and all
        // pages have been given back: both hold the `Socket` that owns this.
        let _ = unsafe { munmap(self.start.cast(), self.length.get()) };
    }
}

/// The smallest region that the module takes: a page for each processor that could be there, and
/// two megabytes (A.3).
pub(crate) fn min_bytes() -> usize {
    let possible = fs::read_to_string(POSSIBLE).ok();
    // Who cannot be asked might have as many as Linux can.
    let processors = possible.and_then(|list| count(&list)).unwrap_or(8192);
    HOMA_RCVBUF_MIN_BASE + processors * HOMA_BPAGE_SIZE
}

/// Offsets into a region are 32 bits wide (A.3).
pub(crate) fn max_bytes() -> usize {
    usize::try_from(HOMA_RCVBUF_MAX).unwrap_or(usize::MAX)
}

/// The default size.
pub(crate) fn default_bytes() -> usize {
    DEFAULT_BYTES.max(2 * min_bytes())
}

/// Processors in a list such as `0-3,8`: the highest one and all below it, as the module counts.
fn count(list: &str) -> Option<usize> {
    let last = list.trim().rsplit([',', '-']).next()?;
    Some(last.parse::<usize>().ok()? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_up_to_the_highest() {
        assert_eq!(count("0\n"), Some(1));
        assert_eq!(count("0-7\n"), Some(8));
        assert_eq!(count("0-3,8-11\n"), Some(12));
        assert_eq!(count("0,2"), Some(3));
        assert_eq!(count("\n"), None);
    }

    #[test]
    fn sizes_suit_this_machine() {
        assert!(min_bytes() > HOMA_RCVBUF_MIN_BASE);
        assert!((min_bytes()..max_bytes()).contains(&default_bytes()));
    }

    #[test]
    fn nothing_beyond_the_end_has_an_address() {
        let region = Region::map(HOMA_BPAGE_SIZE).expect("64 KiB");
        assert_eq!(region.at(0, 1), Some(region.start()));
        assert!(region.at(0, HOMA_BPAGE_SIZE).is_some());
        assert!(region.at(1, HOMA_BPAGE_SIZE).is_none());
        assert!(region.at(u32::MAX, 1).is_none());
        assert!(Region::map(0).is_err());
    }
}
