//! Fuzz targets of the server's core. Each is a function of bytes.
//!
//! `cargo test` replays the corpora in `__fuzz__` and then some seeded inputs, always the same.
//! CONTRIBUTING.md says how to look further.

mod process;
mod source;
