//! Random numbers for epochs and nonces.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A random number, from the keys that the standard library draws for its hash tables.
pub(crate) fn nonzero() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(u64::from(std::process::id()));
    hasher.finish().max(1)
}
