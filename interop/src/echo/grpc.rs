//! The echo service of tonic.

use tokio_stream::Iter;
use tonic::{Request, Response, Status, Streaming};

use super::proto::Payload;
use super::proto::echo_server::Echo;
use super::{MAX_RESPONSE, cut_or_pad};

/// Answers with what it was sent.
#[derive(Debug)]
pub(super) struct EchoService;

#[tonic::async_trait]
impl Echo for EchoService {
    type RepeatStream = Iter<Repeated>;
    type PingPongStream = Streaming<Payload>;

    async fn call(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let Payload {
            data,
            response_bytes,
        } = request.into_inner();
        let Some(bytes) = response_bytes else {
            return Ok(Response::new(data.into()));
        };
        let data = cut_or_pad(data, bytes as usize).ok_or_else(|| {
            let text = format!("response_bytes is {bytes}, which has to be at most {MAX_RESPONSE}");
            Status::invalid_argument(text)
        })?;
        Ok(Response::new(data.into()))
    }

    async fn repeat(
        &self,
        request: Request<Payload>,
    ) -> Result<Response<Self::RepeatStream>, Status> {
        let repeated = Repeated(request.into_inner());
        Ok(Response::new(tokio_stream::iter(repeated)))
    }

    async fn ping_pong(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Self::PingPongStream>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

/// The same message without end; its bytes are shared, not copied.
#[derive(Debug)]
pub(super) struct Repeated(Payload);

impl Iterator for Repeated {
    type Item = Result<Payload, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(Ok(self.0.clone()))
    }
}
