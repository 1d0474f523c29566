//! The server's side: the services, and a layer around them that counts.

mod load;
mod probe;
mod testing;
mod watch;

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::Stream;
use tonic::Status;
use tonic::codec::CompressionEncoding::Gzip;
use tonic_homa::transport::{Listener, Server};

use self::load::{Loads, OpenRca};
use self::probe::Prober;
use self::testing::{Tester, Unimplemented};
use self::watch::WatchLayer;
use super::MESSAGE_LIMIT;
use super::proto::probe::probe_server::ProbeServer;
use super::proto::testing::test_service_server::TestServiceServer;
use super::proto::testing::unimplemented_service_server::UnimplementedServiceServer;
use super::proto::xds::service::orca::v3::open_rca_service_server::OpenRcaServiceServer;
use crate::ledger::Ledger;

/// Responses of a stream.
type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a server of the suite offers, and counts.
pub(crate) struct Services {
    ledger: Arc<Ledger>,
}

impl Services {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger }
    }

    /// Serves on all `listeners` until `stop` is ready, and then what is open.
    pub(crate) async fn serve(
        &self,
        server: Server,
        listeners: Vec<Listener>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), tonic_homa::transport::Error> {
        let loads = Arc::new(Loads::default());
        let tests = TestServiceServer::new(Tester::new(Arc::clone(&loads)))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
            .accept_compressed(Gzip)
            .send_compressed(Gzip);
        let probe = ProbeServer::new(Prober::new(Arc::clone(&self.ledger)))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<TestServiceServer<Tester>>().await;
        server
            .layer(WatchLayer::new(Arc::clone(&self.ledger)))
            .add_service(tests)
            .add_service(UnimplementedServiceServer::new(Unimplemented))
            .add_service(probe)
            .add_service(OpenRcaServiceServer::new(OpenRca::new(loads)))
            .add_service(health)
            .serve_on_with_shutdown(listeners, stop)
            .await
    }
}
