//! Replies that are not Thrift messages, for requests that get none.

use homa_client::Message;

/// Accepted; there is no reply message.
const ACCEPTED: u8 = 0xF1;
/// Not understood, nothing was executed. A text follows.
pub(crate) const NOT_UNDERSTOOD: u8 = 0xF2;
/// Not accepted, nothing was executed. A text follows.
const NOT_ACCEPTED: u8 = 0xF3;
/// Control replies begin with this byte or a higher one; no Thrift message does.
const FIRST: u8 = 0xF0;
/// Longest text that is sent or shown.
const MAX_TEXT: usize = 1_024;

/// The reply to a oneway message, and to a call for which the processor wrote nothing.
pub(crate) fn accepted() -> Message {
    const REPLY: &[u8] = &[ACCEPTED];
    REPLY.into()
}

/// The reply to something that is not a Thrift message.
pub(crate) fn not_understood(why: &str) -> Message {
    with_text(NOT_UNDERSTOOD, why)
}

/// The reply to a oneway message that was not executed.
pub(crate) fn not_accepted(why: &str) -> Message {
    with_text(NOT_ACCEPTED, why)
}

fn with_text(kind: u8, text: &str) -> Message {
    let mut reply = vec![kind];
    reply.extend_from_slice(cut(text));
    reply.into()
}

/// As much of a text as is sent.
pub(crate) fn cut(text: &str) -> &[u8] {
    let end = (0..=text.len().min(MAX_TEXT))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    &text.as_bytes()[..end.unwrap_or(0)]
}

/// A text that was received, as it is shown.
pub(crate) fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT)]).into_owned()
}

/// What a client reads from a reply.
#[derive(Debug)]
pub(crate) enum Received {
    /// A Thrift message.
    Message,
    /// Nothing: reading ends at once.
    Nothing,
    /// The server did not understand the request, and says so.
    NotUnderstood(String),
    /// The server did not accept the oneway message, and says so.
    NotAccepted(String),
    /// A control reply of another version of this crate.
    Unknown(u8),
}

/// Whether what begins with this byte is a control reply.
pub(crate) const fn is(first: u8) -> bool {
    first >= FIRST
}

/// Tells a control reply from a Thrift message.
pub(crate) fn classify(reply: &[u8]) -> Received {
    match reply {
        [ACCEPTED] => Received::Nothing,
        [NOT_UNDERSTOOD, rest @ ..] => Received::NotUnderstood(shown(rest)),
        [NOT_ACCEPTED, rest @ ..] => Received::NotAccepted(shown(rest)),
        [kind, ..] if is(*kind) => Received::Unknown(*kind),
        _ => Received::Message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_first_bytes_from_f0_on_are_control_replies() {
        for first in 0..=255 {
            let is_message = matches!(classify(&[first, 1, 2]), Received::Message);
            assert_eq!(is_message, first < 0xF0, "{first:#x}");
        }
        assert!(matches!(
            classify(&accepted().into_bytes()),
            Received::Nothing
        ));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let reply = not_understood(&"é".repeat(600));
        assert_eq!(reply.len(), 1 + 1_024);
        let long = format!("x{}", "é".repeat(600));
        assert_eq!(not_understood(&long).len(), 1 + 1_023);
        match classify(&not_understood("unknown protocol").into_bytes()) {
            Received::NotUnderstood(text) => assert_eq!(text, "unknown protocol"),
            other => panic!("{other:?}"),
        }
    }
}
