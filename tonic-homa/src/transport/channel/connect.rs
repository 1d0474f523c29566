//! From an [`Endpoint`] to a [`Channel`].

#[cfg(feature = "tcp")]
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use http::{HeaderValue, Uri};
#[cfg(feature = "tcp")]
use hyper::rt::{Read, Write};
use tokio::sync::Semaphore;
#[cfg(feature = "tcp")]
use tower_service::Service;

use super::Channel;
#[cfg(feature = "tcp")]
use super::Kind as ChannelKind;
use super::call::HomaChannel;
use super::endpoint::{Endpoint, Kind, Settings};
#[cfg(feature = "tcp")]
use super::fallback::Fallback;
use super::limit::RateLimit;
use crate::error::Error;
use crate::metadata;
use crate::uri::{HomaTarget, StreamMode, UriError};

/// For `connect()` over Homa where nothing is set: a datagram can be lost without anybody
/// noticing, so that there has to be some limit.
pub(super) const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const USER_AGENT: &str = concat!("tonic-homa/", env!("CARGO_PKG_VERSION"));

#[cfg(feature = "tcp")]
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Endpoint {
    /// Makes a channel, and makes sure that a server is there: over Homa with one round trip.
    ///
    /// If none answers over Homa and the URI has a `fallback`, this is logged as a warning and
    /// the channel is one over TCP, for good.
    ///
    /// # Errors
    ///
    /// [`Error::Resolve`], [`Error::Connect`], [`Error::ConnectTimeout`] or
    /// [`Error::Handshake`] over Homa if no server of this protocol answers, [`Error::Bind`] if
    /// this host cannot open a Homa endpoint, [`Error::Tcp`] for all failures over TCP, and
    /// [`Error::Uri`] if the endpoint was made of a [`Uri`] that cannot be used.
    pub async fn connect(&self) -> Result<Channel, Error> {
        match &self.kind {
            Kind::Homa(target) => {
                let channel = self.homa_channel(target)?;
                #[cfg(feature = "tcp")]
                if target.fallback.is_some() {
                    let fallback = Fallback::new(channel, self);
                    fallback.decide().await?;
                    return Ok(Channel::of(ChannelKind::Fallback(Arc::new(fallback))));
                }
                channel.probe().await?;
                Ok(Channel::homa(channel))
            }
            #[cfg(feature = "tcp")]
            Kind::Tcp => Ok(Channel::tcp(self.tcp.connect().await?)),
            Kind::Refused(_, error) => Err(error.clone().into()),
        }
    }

    /// Makes a channel and sends nothing: the first call finds out whether a server is there.
    ///
    /// With a `fallback` in the URI the first call sends a probe before itself, within
    /// [`connect_timeout`](Self::connect_timeout), and decides for all that follow.
    ///
    /// An endpoint that was made of a [`Uri`] that cannot be used gives a channel whose calls
    /// fail with `INVALID_ARGUMENT` and the reason.
    pub fn connect_lazy(&self) -> Channel {
        match &self.kind {
            Kind::Homa(target) => match self.homa_channel(target) {
                #[cfg(feature = "tcp")]
                Ok(channel) if target.fallback.is_some() => Channel::of(ChannelKind::Fallback(
                    Arc::new(Fallback::new(channel, self)),
                )),
                Ok(channel) => Channel::homa(channel),
                Err(error) => Channel::refused(error.to_string()),
            },
            #[cfg(feature = "tcp")]
            Kind::Tcp => Channel::tcp(self.tcp.connect_lazy()),
            Kind::Refused(_, error) => Channel::refused(error.to_string()),
        }
    }

    fn homa_channel(&self, target: &HomaTarget) -> Result<HomaChannel, Error> {
        let Settings {
            origin, user_agent, ..
        } = &self.settings;
        let origin = origin.as_ref();
        let authority = origin
            .and_then(Uri::authority)
            .map(|authority| authority.as_str());
        let mut section = Vec::new();
        metadata::encode_origin(
            authority.unwrap_or(&target.authority).as_bytes(),
            origin.and_then(Uri::scheme_str).unwrap_or("homa"),
            &mut section,
        )
        .map_err(|error| UriError::Invalid {
            uri: target.uri.to_string(),
            reason: error.to_string(),
        })?;
        let user_agent = match user_agent {
            None => HeaderValue::from_static(USER_AGENT),
            Some(agent) => {
                let both = [agent.as_bytes(), b" ", USER_AGENT.as_bytes()].concat();
                HeaderValue::from_bytes(&both).map_err(|_| Error::UserAgent)?
            }
        };
        Ok(HomaChannel {
            target: target.clone(),
            config: target.configure(self.settings.homa.clone()),
            timeout: self.settings.timeout,
            connect_timeout: self
                .settings
                .connect_timeout
                .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            origin: section,
            user_agent,
            max_message_bytes: self
                .settings
                .max_message_bytes
                .min(self.settings.homa.protocol.max_message_bytes),
            max_metadata_bytes: self.settings.max_metadata_bytes,
            max_stream_buffer_bytes: self.settings.max_stream_buffer_bytes,
            pushed: target.stream != Some(StreamMode::Pull),
            concurrency: self.settings.concurrency_limit.map(Semaphore::new),
            rate: self
                .settings
                .rate_limit
                .map(|(calls, per)| RateLimit::new(calls, per)),
            route: Mutex::new(None),
        })
    }
}

/// Byte streams of the application's own, for which there is no room in Homa.
#[cfg(feature = "tcp")]
impl Endpoint {
    /// Makes a channel over a byte stream that `connector` opens, as tonic's does.
    ///
    /// # Errors
    ///
    /// [`Error::Connector`] for a `homa:` URI, which needs no connector and could not use one;
    /// [`Error::Tcp`] if the connector fails.
    pub async fn connect_with_connector<C>(&self, connector: C) -> Result<Channel, Error>
    where
        C: Service<Uri> + Send + 'static,
        C::Response: Read + Write + Send + Unpin,
        C::Future: Send,
        BoxError: From<C::Error> + Send,
    {
        self.byte_stream()?;
        let channel = self.tcp.connect_with_connector(connector).await?;
        Ok(Channel::tcp(channel))
    }

    /// The same, but the first call opens the byte stream. For a `homa:` URI all calls fail with
    /// `INVALID_ARGUMENT`.
    pub fn connect_with_connector_lazy<C>(&self, connector: C) -> Channel
    where
        C: Service<Uri> + Send + 'static,
        C::Response: Read + Write + Send + Unpin,
        C::Future: Send,
        BoxError: From<C::Error> + Send,
    {
        match self.byte_stream() {
            Ok(()) => Channel::tcp(self.tcp.connect_with_connector_lazy(connector)),
            Err(error) => Channel::refused(error.to_string()),
        }
    }

    fn byte_stream(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::Tcp => Ok(()),
            Kind::Homa(target) => Err(Error::Connector {
                uri: target.uri.to_string(),
            }),
            Kind::Refused(_, error) => Err(error.clone().into()),
        }
    }
}

#[cfg(feature = "tcp")]
impl Channel {
    /// A channel over a byte stream that `connector` opens for the first call; see
    /// [`Endpoint::connect_with_connector_lazy`].
    pub fn new<C>(connector: C, endpoint: Endpoint) -> Self
    where
        C: Service<Uri> + Send + 'static,
        C::Error: Into<BoxError> + Send,
        C::Future: Send,
        C::Response: Read + Write + Unpin + Send + 'static,
    {
        match endpoint.byte_stream() {
            Ok(()) => Self::tcp(tonic::transport::Channel::new(connector, endpoint.tcp)),
            Err(error) => Self::refused(error.to_string()),
        }
    }

    /// A channel over a byte stream that `connector` opens now; see
    /// [`Endpoint::connect_with_connector`].
    ///
    /// # Errors
    ///
    /// Those of [`Endpoint::connect_with_connector`].
    pub async fn connect<C>(connector: C, endpoint: Endpoint) -> Result<Self, Error>
    where
        C: Service<Uri> + Send + 'static,
        C::Error: Into<BoxError> + Send,
        C::Future: Unpin + Send,
        C::Response: Read + Write + Unpin + Send + 'static,
    {
        endpoint.byte_stream()?;
        let channel = tonic::transport::Channel::connect(connector, endpoint.tcp).await?;
        Ok(Self::tcp(channel))
    }
}
