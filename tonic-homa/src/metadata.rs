//! The metadata sections of a frame: head and tail.
//!
//! A section is a row of entries up to its end; order and repeats are kept.
//!
//! | first byte | entry |
//! |---|---|
//! | 0x01–0x3F | a constant name *and* value, one byte in all |
//! | 0x40–0x7F | a constant name; then the value's length (LEB128, at most 3 bytes) and the value |
//! | 0x80 | name length (LEB128), name, value length (LEB128), value |
//!
//! Values are what is in a [`HeaderMap`]: those of `-bin` names stay base64, `grpc-message` stays
//! percent-encoded. [`DROPPED`] headers mean something to HTTP connections only and are left out
//! in both directions, as is `grpc-timeout`, which travels as a number in the OPEN's header.
//!
//! ```
//! use http::HeaderMap;
//! use tonic_homa::metadata;
//!
//! let mut headers = HeaderMap::new();
//! headers.insert("content-type", "application/grpc".parse()?);
//! headers.insert("x-id", "7".parse()?);
//! let mut section = Vec::new();
//! metadata::encode_headers(&headers, &mut section)?;
//! assert_eq!(section, b"\x02\x80\x04x-id\x017");
//! assert_eq!(metadata::decode_headers(section.into())?, headers);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Default limit for one section in bytes; more is answered with `RESOURCE_EXHAUSTED`.
pub const DEFAULT_LIMIT: usize = 65_536;

/// Most entries of one section. Entries of one byte unfold to a hundred times their size in a
/// [`HeaderMap`], so that the limit of bytes alone would not bound memory.
pub const MAX_ENTRIES: usize = 4_096;

/// Headers that are not sent, and dropped on receipt.
pub const DROPPED: [&str; 4] = [
    "connection",
    "transfer-encoding",
    "content-length",
    "grpc-timeout",
];

/// Longest name or value: what three LEB128 bytes can express.
const MAX_LEN: usize = (1 << 21) - 1;

const LITERAL: u8 = 0x80;

/// Constant names with their ids.
const NAMES: [(u8, &str); 14] = [
    (0x40, ":path"),
    (0x41, ":authority"),
    (0x42, ":scheme"),
    (0x43, "user-agent"),
    (0x44, "content-type"),
    (0x45, "grpc-encoding"),
    (0x46, "grpc-accept-encoding"),
    (0x47, "grpc-status"),
    (0x48, "grpc-message"),
    (0x49, "grpc-status-details-bin"),
    (0x4A, "authorization"),
    (0x4B, "traceparent"),
    (0x4C, "tracestate"),
    (0x4D, "grpc-trace-bin"),
];

/// Constant pairs of name and value with their ids.
const PAIRS: [(u8, &str, &str); 28] = [
    (0x01, "te", "trailers"),
    (0x02, "content-type", "application/grpc"),
    (0x03, "grpc-encoding", "identity"),
    (0x04, "grpc-encoding", "gzip"),
    (0x05, "grpc-encoding", "deflate"),
    (0x06, "grpc-encoding", "zstd"),
    (0x07, "grpc-accept-encoding", "gzip,identity"),
    (0x08, ":scheme", "homa"),
    (0x09, ":scheme", "http"),
    (0x0A, ":scheme", "https"),
    (0x0B, "content-type", "application/grpc+proto"),
    (0x10, "grpc-status", "0"),
    (0x11, "grpc-status", "1"),
    (0x12, "grpc-status", "2"),
    (0x13, "grpc-status", "3"),
    (0x14, "grpc-status", "4"),
    (0x15, "grpc-status", "5"),
    (0x16, "grpc-status", "6"),
    (0x17, "grpc-status", "7"),
    (0x18, "grpc-status", "8"),
    (0x19, "grpc-status", "9"),
    (0x1A, "grpc-status", "10"),
    (0x1B, "grpc-status", "11"),
    (0x1C, "grpc-status", "12"),
    (0x1D, "grpc-status", "13"),
    (0x1E, "grpc-status", "14"),
    (0x1F, "grpc-status", "15"),
    (0x20, "grpc-status", "16"),
];

/// Why a section cannot be read or written.
///
/// ```
/// use tonic_homa::metadata::{self, MetadataError};
///
/// // An OPEN whose metadata is empty names no method.
/// let error = metadata::decode_request(bytes::Bytes::new()).unwrap_err();
/// assert_eq!(error, MetadataError::NoPath);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// An entry begins with a byte that has no meaning.
    #[error("metadata entry {0:#04x} does not exist")]
    Entry(u8),
    /// The section ends inside an entry.
    #[error("the metadata ends inside an entry")]
    Truncated,
    /// A name or value is longer than three LEB128 bytes can express.
    #[error("a metadata name or value is longer than {MAX_LEN} bytes")]
    TooLong,
    /// More entries than [`MAX_ENTRIES`].
    #[error("more than {MAX_ENTRIES} metadata entries")]
    TooMany,
    /// A name that is no lower-case header name.
    #[error("a metadata name is no lower-case header name")]
    Name,
    /// A value with bytes that no header may have.
    #[error("a metadata value has bytes that no header may have")]
    Value,
    /// `:path`, `:authority` or `:scheme` after a header, twice, or outside of an OPEN.
    #[error("a pseudo-header is out of place")]
    Pseudo,
    /// An OPEN that names no method.
    #[error("there is no :path")]
    NoPath,
}

/// The initial metadata of an OPEN.
///
/// ```
/// use tonic_homa::metadata;
///
/// let mut section = Vec::new();
/// metadata::encode_path(b"/greeter.Greeter/Hello", &mut section)?;
/// metadata::encode_origin(b"10.0.0.1:4000", "homa", &mut section)?;
/// let head = metadata::decode_request(section.into())?;
/// assert_eq!(head.path, "/greeter.Greeter/Hello");
/// assert_eq!(head.authority.as_deref(), Some(&b"10.0.0.1:4000"[..]));
/// # Ok::<(), metadata::MetadataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method's path, `/package.Service/Method`.
    pub path: Bytes,
    /// Host and port that the client called.
    pub authority: Option<Bytes>,
    /// The client's scheme, usually `homa`.
    pub scheme: Option<Bytes>,
    /// Everything else.
    pub headers: HeaderMap,
}

/// Appends `:path`. Goes first.
///
/// # Errors
///
/// [`MetadataError::TooLong`].
pub fn encode_path(path: &[u8], out: &mut Vec<u8>) -> Result<(), MetadataError> {
    encode_named(0x40, path, out)
}

/// Appends `:authority` and `:scheme`. They follow `:path` and are the same for all calls of a
/// channel, which therefore encodes them once.
///
/// # Errors
///
/// [`MetadataError::TooLong`].
pub fn encode_origin(
    authority: &[u8],
    scheme: &str,
    out: &mut Vec<u8>,
) -> Result<(), MetadataError> {
    encode_named(0x41, authority, out)?;
    match pair_id(":scheme", scheme.as_bytes()) {
        Some(id) => out.push(id),
        None => encode_named(0x42, scheme.as_bytes(), out)?,
    }
    Ok(())
}

/// Appends all `headers` but the [`DROPPED`] ones.
///
/// # Errors
///
/// [`MetadataError::TooLong`] if a value has 2 MiB or more.
pub fn encode_headers(headers: &HeaderMap, out: &mut Vec<u8>) -> Result<(), MetadataError> {
    for (name, value) in headers {
        encode_header(name, value, out)?;
    }
    Ok(())
}

/// Appends one header, unless it is one of the [`DROPPED`] ones.
///
/// # Errors
///
/// [`MetadataError::TooLong`] if the value has 2 MiB or more.
pub fn encode_header(
    name: &HeaderName,
    value: &HeaderValue,
    out: &mut Vec<u8>,
) -> Result<(), MetadataError> {
    let name = name.as_str();
    if is_dropped(name) {
        return Ok(());
    }
    if let Some(id) = pair_id(name, value.as_bytes()) {
        out.push(id);
        return Ok(());
    }
    match name_id(name) {
        Some(id) => encode_named(id, value.as_bytes(), out),
        None => {
            out.push(LITERAL);
            encode_bytes(name.as_bytes(), out)?;
            encode_bytes(value.as_bytes(), out)
        }
    }
}

/// Reads the initial metadata of an OPEN. Names and values share the section's memory.
///
/// # Errors
///
/// Whatever the protocol forbids; see [`MetadataError`]. Never panics.
pub fn decode_request(section: Bytes) -> Result<RequestHead, MetadataError> {
    let mut path = None;
    let mut authority = None;
    let mut scheme = None;
    let mut headers = HeaderMap::with_capacity(CAPACITY);
    for_each(section, |name, value| {
        let slot = match name {
            Name::Header(name) => return append(&mut headers, name, value),
            Name::Path => &mut path,
            Name::Authority => &mut authority,
            Name::Scheme => &mut scheme,
        };
        if slot.is_some() || !headers.is_empty() {
            return Err(MetadataError::Pseudo);
        }
        *slot = Some(value);
        Ok(())
    })?;
    Ok(RequestHead {
        path: path.ok_or(MetadataError::NoPath)?,
        authority,
        scheme,
        headers,
    })
}

/// Reads any other section.
///
/// # Errors
///
/// Whatever the protocol forbids; see [`MetadataError`]. Never panics.
pub fn decode_headers(section: Bytes) -> Result<HeaderMap, MetadataError> {
    let mut headers = HeaderMap::with_capacity(CAPACITY);
    for_each(section, |name, value| match name {
        Name::Header(name) => append(&mut headers, name, value),
        Name::Path | Name::Authority | Name::Scheme => Err(MetadataError::Pseudo),
    })?;
    Ok(headers)
}

/// What a usual call has, so that the map does not grow while it is read.
const CAPACITY: usize = 6;

enum Name {
    Path,
    Authority,
    Scheme,
    Header(HeaderName),
}

fn for_each(
    mut section: Bytes,
    mut with: impl FnMut(Name, Bytes) -> Result<(), MetadataError>,
) -> Result<(), MetadataError> {
    for _ in 0..MAX_ENTRIES {
        if section.is_empty() {
            return Ok(());
        }
        let first = section.get_u8();
        let (name, value) = match first {
            LITERAL => {
                let name = decode_bytes(&mut section)?;
                let name = HeaderName::from_lowercase(&name).map_err(|_| MetadataError::Name)?;
                (Name::Header(name), decode_bytes(&mut section)?)
            }
            0x40..0x80 => {
                let name = constant_name(first).ok_or(MetadataError::Entry(first))?;
                (name, decode_bytes(&mut section)?)
            }
            _ => {
                let (_, name, value) = PAIRS
                    .iter()
                    .find(|(id, ..)| *id == first)
                    .ok_or(MetadataError::Entry(first))?;
                (known_name(name), Bytes::from_static(value.as_bytes()))
            }
        };
        with(name, value)?;
    }
    if section.is_empty() {
        Ok(())
    } else {
        Err(MetadataError::TooMany)
    }
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: Bytes) -> Result<(), MetadataError> {
    if is_dropped(name.as_str()) {
        return Ok(());
    }
    let value = HeaderValue::from_maybe_shared(value).map_err(|_| MetadataError::Value)?;
    headers
        .try_append(name, value)
        .map(drop)
        .map_err(|_| MetadataError::TooMany)
}

fn is_dropped(name: &str) -> bool {
    DROPPED.contains(&name)
}

fn constant_name(id: u8) -> Option<Name> {
    NAMES
        .iter()
        .find(|(known, _)| *known == id)
        .map(|(_, name)| known_name(name))
}

/// For names of the tables only.
fn known_name(name: &'static str) -> Name {
    match name {
        ":path" => Name::Path,
        ":authority" => Name::Authority,
        ":scheme" => Name::Scheme,
        // The ones that `http` knows are cheaper to hash and to compare.
        "te" => Name::Header(header::TE),
        "content-type" => Name::Header(header::CONTENT_TYPE),
        "user-agent" => Name::Header(header::USER_AGENT),
        "authorization" => Name::Header(header::AUTHORIZATION),
        _ => Name::Header(HeaderName::from_static(name)),
    }
}

fn name_id(name: &str) -> Option<u8> {
    NAMES
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(id, _)| *id)
}

fn pair_id(name: &str, value: &[u8]) -> Option<u8> {
    PAIRS
        .iter()
        .find(|(_, known, constant)| *known == name && constant.as_bytes() == value)
        .map(|(id, ..)| *id)
}

fn encode_named(id: u8, value: &[u8], out: &mut Vec<u8>) -> Result<(), MetadataError> {
    out.push(id);
    encode_bytes(value, out)
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), MetadataError> {
    let mut rest = bytes.len();
    if rest > MAX_LEN {
        return Err(MetadataError::TooLong);
    }
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(bytes);
    Ok(())
}

fn decode_bytes(section: &mut Bytes) -> Result<Bytes, MetadataError> {
    let mut len = 0;
    for shift in [0, 7, 14] {
        if section.is_empty() {
            return Err(MetadataError::Truncated);
        }
        let byte = section.get_u8();
        len |= usize::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            if len > section.len() {
                return Err(MetadataError::Truncated);
            }
            return Ok(section.split_to(len));
        }
    }
    Err(MetadataError::TooLong)
}

#[cfg(test)]
pub(crate) mod tests;
