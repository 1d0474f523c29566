//! Files that somebody names on the command line.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes of one: a hundred thousand lines of 80.
const MAX_BYTES: u64 = 8_000_000;

/// The whole text of a file, unless it is longer than any that makes sense: a device, say.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!(
            "it is longer than {MAX_BYTES} bytes"
        )));
    }
    // What some editors put first.
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_files_are_not_read_to_their_end() {
        let error = read(Path::new("/dev/zero")).expect_err("there is no end");
        assert!(error.to_string().contains("longer than 8000000 bytes"));
        assert!(read(Path::new("/nonexistent")).is_err());
    }
}
