//! The echo server on `homa-client` alone. In front of what a request carries are [`HEADER`] bytes:
//! how many bytes the response shall have.

use bytes::{Buf as _, Bytes};
use homa_client::{Message, Server};

use super::cut_or_pad;

/// Bytes in front of each request.
pub(crate) const HEADER: usize = 4;

/// A request that carries `data` and is answered with so many bytes.
pub(crate) fn request(data: Bytes, response_bytes: u32) -> Message {
    let mut message = Message::new();
    message.push(Bytes::copy_from_slice(&response_bytes.to_be_bytes()));
    message.push(data);
    message
}

/// Answers until nobody can call any more.
pub(super) async fn serve(server: Server) {
    while let Some(request) = server.accept().await {
        let (message, responder) = request.into_parts();
        // One that makes no sense is not answered: its client learns that the responder is gone.
        if let Some(response) = response(message) {
            // A client that is gone needs no answer.
            let _ = responder.reply(response);
        }
    }
}

/// What answers a request, `None` if that makes no sense.
fn response(mut request: Message) -> Option<Message> {
    if request.len() < HEADER {
        return None;
    }
    let bytes = request.get_u32() as usize;
    if bytes <= request.len() {
        // As it arrived, without a copy.
        return Some(request.split_to(bytes));
    }
    cut_or_pad(request.into_bytes(), bytes).map(Message::from)
}

#[cfg(test)]
mod tests {
    use super::super::MAX_RESPONSE;
    use super::*;

    #[test]
    fn a_response_has_the_bytes_asked_for_zeros_behind_those_of_the_request() {
        let answer = |bytes| {
            let response = response(request(Bytes::from_static(b"abcdef"), bytes));
            response.map(Message::into_bytes)
        };
        assert_eq!(answer(6).expect("answered"), "abcdef");
        assert_eq!(answer(2).expect("answered"), "ab");
        assert_eq!(answer(8).expect("answered"), &b"abcdef\0\0"[..]);
        assert_eq!(answer(u32::MAX), None);
        assert_eq!(answer(MAX_RESPONSE as u32 + 1), None);
        assert!(response(Message::from("abc")).is_none(), "no header");
    }
}
