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
        Self::show(&bar);
        Self { bar }
    }

    /// A bar of `steps` for work of which nobody knows how long it takes: it is seen from the time
    /// on at which it has taken long. Needs a tokio runtime.
    pub(crate) fn if_it_lasts(steps: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::hidden());
        if io::stderr().is_terminal() {
            let weak = bar.downgrade();
            tokio::spawn(async move {
                tokio::time::sleep(SHOW_AFTER).await;
                if let Some(bar) = weak.upgrade().filter(|bar| !bar.is_finished()) {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    Self::show(&bar);
                }
            });
        }
        Self { bar }
    }

    fn show(bar: &ProgressBar) {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(500));
    }

    /// Prints a line to standard output.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        self.bar.suspend(|| writeln!(io::stdout(), "{text}"))
    }
}
