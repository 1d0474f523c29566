//! Both carriers between hosts made of network namespaces. Needs root and the command `ip`; where
//! these are missing, each test says so and ends.

mod host;
mod path;
mod raw;
