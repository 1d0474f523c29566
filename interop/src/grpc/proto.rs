//! What is generated from `proto/`.

/// gRPC's own test services.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(super) mod testing {
    tonic::include_proto!("grpc.testing");
}

/// Ours.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(super) mod probe {
    tonic::include_proto!("homa_interop");
}
