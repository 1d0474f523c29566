//! Fuzz targets of the codec and of the engine. Each is a function of bytes.
//!
//! `cargo test` replays the corpora in `__fuzz__` and then some seeded inputs, always the same.
//! CONTRIBUTING.md says how to look further.

mod codec;
mod engine;
mod grants;
mod source;
