//! [`Limits`]: how much one message may take.

use thrift::TConfiguration;

/// How much one message may take, whichever side and transport it comes from.
///
/// The factories of the thrift crate know the crate's default limits only (strings of 100 MiB,
/// containers of any size); the protocols that this crate makes keep these here. They hold for what
/// is read and for what is written.
///
/// ```
/// use thrift_homa::Limits;
///
/// let mut limits = Limits::for_messages(64_000);
/// limits.depth = 16;
/// assert_eq!(limits.string_bytes, 64_000);
/// assert_eq!(Limits::default().message_bytes, 1_000_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Longest message in bytes. Default 1,000,000, the most that the kernel module carries. Over
    /// Homa `Config::protocol.max_message_bytes` bounds it as well.
    pub message_bytes: usize,
    /// Longest string or binary field in bytes. Default 1,000,000.
    pub string_bytes: usize,
    /// Most elements of one list, set or map. Default 100,000. Code of the compiler 0.17 reserves
    /// memory for as many as a message claims.
    pub container_elements: usize,
    /// How deep structures may be nested, and in requests containers. Default 64, which is also the most that the thrift crate
    /// skips of fields that nobody knows. What is nested deeper takes stack, some kilobytes a level.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 1_000_000,
            string_bytes: 1_000_000,
            container_elements: 100_000,
            depth: 64,
        }
    }
}

impl Limits {
    /// The defaults, for messages and strings of up to so many bytes.
    pub fn for_messages(bytes: usize) -> Self {
        Self {
            message_bytes: bytes,
            string_bytes: bytes,
            ..Self::default()
        }
    }

    /// The same as the thrift crate's protocols take it.
    pub(crate) fn configuration(&self) -> TConfiguration {
        TConfiguration::builder()
            .max_message_size(Some(self.message_bytes))
            .max_frame_size(Some(self.message_bytes))
            .max_string_size(Some(self.string_bytes))
            .max_container_size(Some(self.container_elements))
            .max_recursion_depth(Some(self.depth))
            .build()
            // It fails only for frames that may be longer than messages.
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_reaches_the_thrift_crate() {
        let limits = Limits {
            message_bytes: 4,
            string_bytes: 3,
            container_elements: 2,
            depth: 1,
        };
        let configuration = limits.configuration();
        assert_eq!(configuration.max_message_size(), Some(4));
        assert_eq!(configuration.max_frame_size(), Some(4));
        assert_eq!(configuration.max_string_size(), Some(3));
        assert_eq!(configuration.max_container_size(), Some(2));
        assert_eq!(configuration.max_recursion_depth(), Some(1));
    }
}
