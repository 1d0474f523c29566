//! Processes that keep processors busy.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Some of them. They end when this is dropped, and when this process dies, because both close
/// their standard inputs.
#[derive(Debug, Default)]
pub(crate) struct Busy(Vec<Child>);

impl Busy {
    pub(crate) fn start(count: u32) -> io::Result<Self> {
        let mut busy = Self::default();
        let program = std::env::current_exe()?;
        for _ in 0..count {
            let child = Command::new(&program)
                .arg("busy")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()?;
            busy.0.push(child);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Both fail only if it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What such a process does.
pub(crate) fn run_until_stdin_ends() -> io::Result<()> {
    static ENDED: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        let mut ignored = [0; 64];
        while matches!(io::stdin().read(&mut ignored), Ok(1..)) {}
        ENDED.store(true, Ordering::Relaxed);
    });
    while !ENDED.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    Ok(())
}
