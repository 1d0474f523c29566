//! The tokio runtime of a process that is measured.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// The largest number of workers that can be asked for.
pub(crate) const MAX_WORKERS: i64 = 64;

/// A runtime with so many workers: 1 is tokio's current-thread runtime, `None` what tokio does by
/// itself.
pub(crate) fn with_workers(workers: Option<u16>) -> io::Result<Runtime> {
    match workers {
        Some(1) => Builder::new_current_thread().enable_all().build(),
        Some(workers) => Builder::new_multi_thread()
            .worker_threads(workers.into())
            .enable_all()
            .build(),
        None => Builder::new_multi_thread().enable_all().build(),
    }
}

/// The same in words.
pub(crate) fn describe(workers: Option<u16>) -> String {
    match workers {
        None => "tokio's default runtime".to_owned(),
        Some(1) => "tokio's current-thread runtime".to_owned(),
        Some(workers) => format!("{workers} workers"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::RuntimeFlavor;

    use super::*;

    #[test]
    fn one_worker_is_the_current_thread_runtime() {
        let flavor = |workers| {
            let runtime = with_workers(workers).expect("a runtime");
            runtime.handle().runtime_flavor()
        };
        assert_eq!(flavor(Some(1)), RuntimeFlavor::CurrentThread);
        assert_eq!(flavor(Some(2)), RuntimeFlavor::MultiThread);
        assert_eq!(flavor(None), RuntimeFlavor::MultiThread);
    }
}
