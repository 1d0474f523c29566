//! [`Charge`]: receive memory that is given back when its message is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Receive memory that stays charged to an endpoint until the message is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    bytes: usize,
    /// Where the endpoint's driver collects what dropped messages give back.
    released: Arc<AtomicUsize>,
}

impl Charge {
    pub(crate) fn new(bytes: usize, released: Arc<AtomicUsize>) -> Self {
        Self { bytes, released }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.released.fetch_add(self.bytes, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    #[test]
    fn it_is_given_back_once_when_the_last_clone_goes() {
        let released = Arc::new(AtomicUsize::new(0));
        let message = Message::from("bytes").with_charge(Charge::new(6, released.clone()));
        let second = message.clone();
        drop(message);
        assert_eq!(released.load(Ordering::Acquire), 0);
        drop(second);
        assert_eq!(released.load(Ordering::Acquire), 6);
    }
}
