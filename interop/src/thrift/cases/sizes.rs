//! Messages of every length.

use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::{ApplicationErrorKind, TransportErrorKind};

use super::{Context, Outcome, content, excepted, names, not_carried, returned, returned_this};
use crate::case::{Failure, ensure};
use crate::thrift::suite::{SuiteSyncClient, TBaseSyncClient, TSuiteSyncClient};

/// Around what packets, loopback packets and the buffers of other transports hold.
const SIZES: [usize; 19] = [
    0, 1, 2, 1_300, 1_372, 1_400, 1_460, 1_500, 4_095, 4_096, 4_097, 8_191, 8_193, 16_384, 64_000,
    65_535, 65_536, 65_537, 300_000,
];

/// The longest message.
const LIMIT: usize = 1_000_000;

pub(super) fn sizes_up(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for size in SIZES {
        let data = content(size);
        let sum = data.iter().map(|byte| i64::from(*byte)).sum();
        let expected = vec![size as i64, sum];
        returned_this(&format!("{size} bytes"), client.measure(data), &expected)?;
    }
    Ok(())
}

pub(super) fn sizes_down(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    for size in SIZES {
        let made = client.make(size as i32);
        returned_this(&format!("{size} bytes"), made, &content(size))?;
    }
    Ok(())
}

/// What a request has besides its data, in the binary protocol. In the compact one it is no more.
fn head() -> Result<usize, Failure> {
    let mut request = Vec::new();
    let mut client = SuiteSyncClient::new(
        TBinaryInputProtocol::new(&[][..], true),
        TBinaryOutputProtocol::new(&mut request, true),
    );
    // It is written, and there is no reply to read.
    ensure!(
        client.measure(Vec::new()).is_err(),
        "a reply out of nothing"
    );
    Ok(request.len())
}

pub(super) fn longest_request(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    // The name of a service in front of the method's would count as well.
    let is_binary = matches!(
        context.endpoint().options().protocol,
        thrift_homa::Protocol::Binary
    );
    let fits = LIMIT - head()?;
    let measured = returned("the longest", client.measure(content(fits)))?;
    ensure!(
        measured.first() == i64::try_from(fits).ok().as_ref(),
        "{measured:?} bytes arrived of {fits}"
    );
    // The compact protocol needs less for the rest.
    let too_long = if is_binary { fits + 1 } else { LIMIT };
    let failed = client.measure(content(too_long));
    let text = not_carried("one byte more", failed, TransportErrorKind::SizeLimit)?;
    names(&text, &["1000000"])?;
    let failed = client.measure(content(3 * LIMIT));
    not_carried("3,000,000 bytes", failed, TransportErrorKind::SizeLimit)?;
    returned("afterwards", client.ping())
}

pub(super) fn longest_reply(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    let size = LIMIT - 100;
    returned_this("almost", client.make(size as i32), &content(size))?;
    for size in [LIMIT, 10 * LIMIT] {
        let failed = client.make(size as i32);
        let what = format!("{size} bytes");
        let text = excepted(&what, failed, ApplicationErrorKind::InternalError)?;
        names(&text, &["1000000"])?;
        returned("afterwards", client.ping())?;
    }
    Ok(())
}
