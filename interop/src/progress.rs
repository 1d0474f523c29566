//! A progress bar on standard error, hidden where nobody would see it or the work is short.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that lasts longer than this shows a progress bar.
const SHOW_AFTER: Duration = Duration::from_secs(2);

/// The bar, and a way to print around it.
pub(crate) struct Progress {
    pub(crate) bar: ProgressBar,
}

impl Progress {
    /// A bar of `steps` for work that takes at least `lasts`.
    pub(crate) fn new(steps: u64, lasts: Duration) -> Self {
        if lasts < SHOW_AFTER || !io::stderr().is_terminal() {
            return Self {
                bar: ProgressBar::hidden(),
            };
        }
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar }
    }

    /// Prints a line to standard output.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        self.bar.suspend(|| writeln!(io::stdout(), "{text}"))
    }
}
