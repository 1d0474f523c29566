//! The code of our IDLs is what the compiler makes of them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit status of the script where it cannot make the code.
const SKIPPED: i32 = 77;

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_generated_code_is_that_of_the_idls() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(repository.join("interop/idl/regenerate.sh"))
        .arg(folder.path())
        .output()
        .expect("the script runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(SKIPPED) {
        println!("skipped: {}", stderr.trim());
        return;
    }
    assert!(output.status.success(), "{stderr}");
    let made = files(folder.path());
    assert!(!made.is_empty(), "no code at all");
    for path in made {
        let name = path.strip_prefix(folder.path()).expect("below it");
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            read(&path) == read(&repository.join(name)),
            "{} is out of date: run interop/idl/regenerate.sh",
            name.display()
        );
    }
}
