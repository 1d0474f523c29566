//! What Homa is compared with, under equal conditions: as good as it can be, and what data
//! centers use.

pub(crate) mod dctcp;
pub(crate) mod oracle;
