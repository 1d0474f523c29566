//! Generates the services of the examples. Needs no protoc.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or(std::io::ErrorKind::NotFound)?);
    let protos = ["greeter", "route_guide", "files"].map(|name| format!("proto/{name}.proto"));
    tonic_homa::build::configure()
        // Content of files is not copied.
        .bytes(".files")
        // Reflection serves it.
        .file_descriptor_set_path(out.join("examples.bin"))
        .compile_protos(&protos, &["proto"])
}
