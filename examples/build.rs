//! Generates the services of the examples. Needs no protoc.

fn main() -> std::io::Result<()> {
    tonic_homa::build::compile_protos("proto/greeter.proto")
}
