//! Generates the echo service, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_homa::build::configure()
        .bytes(".")
        .compile_protos(&["proto/echo.proto"], &["proto"])?;
    Ok(())
}
