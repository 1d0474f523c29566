//! Generates the services, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = [
        "proto/echo.proto",
        "proto/grpc/testing/test.proto",
        "proto/probe.proto",
        "proto/xds/service/orca/v3/orca.proto",
    ];
    tonic_homa::build::configure()
        .bytes(".")
        .compile_protos(&protos, &["proto"])?;
    Ok(())
}
