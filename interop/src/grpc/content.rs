//! Content of messages by their number, so that both sides know it.

use bytes::Bytes;

use super::proto::probe::Piece;

/// The bytes of piece `number`.
pub(super) fn of(number: u64, len: usize) -> Bytes {
    let mut data = vec![0; len];
    fastrand::Rng::with_seed(number).fill(&mut data);
    data.into()
}

/// A piece with its content.
pub(super) fn piece(key: u64, number: u64, len: usize) -> Piece {
    let data = of(number, len);
    Piece { key, number, data }
}

/// Whether every byte is what was sent.
pub(super) fn is_as_sent(piece: &Piece) -> bool {
    piece.data == of(piece.number, piece.data.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_number_or_length_is_seen() {
        let good = piece(1, 7, 1_000);
        assert!(is_as_sent(&good));
        let mut data = good.data.to_vec();
        data[999] ^= 1;
        let wrong_byte = Piece {
            data: data.into(),
            ..good.clone()
        };
        let wrong_number = Piece { number: 8, ..good };
        assert!(!is_as_sent(&wrong_byte) && !is_as_sent(&wrong_number));
    }
}
