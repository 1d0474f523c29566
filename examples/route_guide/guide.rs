//! The service, as it would be written for tonic.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::route_guide_server::RouteGuide;
use crate::proto::{Feature, Point, Rectangle, RouteNote, RouteSummary};

/// A place with a name.
pub(crate) struct Stop {
    name: &'static str,
    /// Ten millionths of a degree.
    latitude: i32,
    longitude: i32,
}

impl Stop {
    pub(crate) fn point(&self) -> Point {
        Point {
            latitude: self.latitude,
            longitude: self.longitude,
        }
    }

    fn feature(&self) -> Feature {
        Feature {
            name: self.name.into(),
            location: Some(self.point()),
        }
    }
}

/// Down the river.
pub(crate) const RHINE: [Stop; 9] = [
    stop("Basel", 475_600_000, 75_900_000),
    stop("Strasbourg", 485_800_000, 77_500_000),
    stop("Mannheim", 494_900_000, 84_700_000),
    stop("Mainz", 500_000_000, 82_700_000),
    stop("Loreley", 501_400_000, 77_300_000),
    stop("Koblenz", 503_600_000, 75_900_000),
    stop("Cologne", 509_400_000, 69_600_000),
    stop("Nijmegen", 518_400_000, 58_600_000),
    stop("Rotterdam", 519_200_000, 44_800_000),
];

const fn stop(name: &'static str, latitude: i32, longitude: i32) -> Stop {
    Stop {
        name,
        latitude,
        longitude,
    }
}

/// By latitude and longitude.
type Notes = HashMap<(i32, i32), Vec<RouteNote>>;

/// The guide. It keeps the notes that were left.
#[derive(Default)]
pub(crate) struct Guide {
    notes: Arc<Mutex<Notes>>,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RouteGuide for Guide {
    async fn get_feature(&self, request: Request<Point>) -> Result<Response<Feature>, Status> {
        let point = request.into_inner();
        let unnamed = Feature {
            location: Some(point),
            ..Feature::default()
        };
        Ok(Response::new(find(&point).map_or(unnamed, Stop::feature)))
    }

    type ListFeaturesStream = Replies<Feature>;

    async fn list_features(
        &self,
        request: Request<Rectangle>,
    ) -> Result<Response<Replies<Feature>>, Status> {
        let Rectangle {
            lo: Some(lo),
            hi: Some(hi),
        } = request.into_inner()
        else {
            return Err(Status::invalid_argument("an area has two corners"));
        };
        let is_in = |value: i32, a: i32, b: i32| (a.min(b)..=a.max(b)).contains(&value);
        let features = RHINE.iter().filter(move |stop| {
            is_in(stop.latitude, lo.latitude, hi.latitude)
                && is_in(stop.longitude, lo.longitude, hi.longitude)
        });
        let features = features.map(|stop| Ok(stop.feature()));
        Ok(Response::new(Box::pin(tokio_stream::iter(features))))
    }

    async fn record_route(
        &self,
        request: Request<Streaming<Point>>,
    ) -> Result<Response<RouteSummary>, Status> {
        let began = Instant::now();
        let mut points = request.into_inner();
        let mut summary = RouteSummary::default();
        let mut meters = 0.0;
        let mut last = None;
        while let Some(point) = points.message().await? {
            summary.point_count += 1;
            summary.feature_count += i32::from(find(&point).is_some());
            if let Some(last) = last.replace(point) {
                meters += distance(&last, &point);
            }
        }
        summary.distance = meters as i32;
        summary.elapsed_time = began.elapsed().as_secs() as i32;
        Ok(Response::new(summary))
    }

    type RouteChatStream = Replies<RouteNote>;

    async fn route_chat(
        &self,
        request: Request<Streaming<RouteNote>>,
    ) -> Result<Response<Replies<RouteNote>>, Status> {
        let all = self.notes.clone();
        let mut notes = request.into_inner();
        let replies = async_stream::try_stream! {
            while let Some(note) = notes.message().await? {
                let point = note.location.unwrap_or_default();
                let before = {
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    let here = all.entry((point.latitude, point.longitude)).or_default();
                    let before = here.clone();
                    here.push(note);
                    before
                };
                for note in before {
                    yield note;
                }
            }
        };
        Ok(Response::new(Box::pin(replies)))
    }
}

fn find(point: &Point) -> Option<&'static Stop> {
    RHINE.iter().find(|stop| stop.point() == *point)
}

/// Meters on the surface of the earth, by the haversine formula.
fn distance(from: &Point, to: &Point) -> f64 {
    const EARTH_RADIUS: f64 = 6_371_000.0;
    let radians = |value: i32| (f64::from(value) / 1e7).to_radians();
    let (from_latitude, to_latitude) = (radians(from.latitude), radians(to.latitude));
    let latitude = (to_latitude - from_latitude) / 2.0;
    let longitude = (radians(to.longitude) - radians(from.longitude)) / 2.0;
    let chord =
        latitude.sin().powi(2) + from_latitude.cos() * to_latitude.cos() * longitude.sin().powi(2);
    2.0 * EARTH_RADIUS * chord.sqrt().asin()
}
