//! What is generated from `proto/`.

/// gRPC's own test services.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(super) mod testing {
    tonic::include_proto!("grpc.testing");
}

/// Load reports. Their packages refer to each other by these paths.
pub(super) mod xds {
    pub(in crate::grpc) mod data {
        pub(in crate::grpc) mod orca {
            #[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
            pub(in crate::grpc) mod v3 {
                tonic::include_proto!("xds.data.orca.v3");
            }
        }
    }

    pub(in crate::grpc) mod service {
        pub(in crate::grpc) mod orca {
            #[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
            pub(in crate::grpc) mod v3 {
                tonic::include_proto!("xds.service.orca.v3");
            }
        }
    }
}

/// Ours.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(super) mod probe {
    tonic::include_proto!("homa_interop");
}
