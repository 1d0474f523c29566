//! What the examples share: how they end, and what those of Thrift serve.

pub mod calculator;

use std::error::Error;
use std::process::ExitCode;

/// Prints an error with its causes, and makes an exit status of the outcome: 0 or 1.
///
/// ```
/// use std::process::ExitCode;
///
/// let failed = homa_examples::exit(Err("no such file".into()));
/// assert_eq!(failed, ExitCode::FAILURE);
/// ```
pub fn exit(outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    let mut text = match error.downcast_ref() {
        Some(error) => thrift_homa::error_text(error),
        None => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors tell their cause themselves.
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    eprintln!("error: {text}");
    ExitCode::FAILURE
}

/// Waits for Ctrl-C, which then is the moment to stop.
pub async fn ctrl_c() {
    // Without a handler for it the system ends the process.
    let _ = tokio::signal::ctrl_c().await;
}
