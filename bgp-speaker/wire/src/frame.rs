//! Cuts a byte stream into messages (RFC 4271 section 4.1 and 6.1).

use crate::DecodeError;

/// Holds what came from a connection until a whole message is there. Drop it with the connection, or after an error: the
/// stream has no way to find the next message.
#[derive(Debug, Default)]
pub struct FrameSplitter {
    buffer: Vec<u8>,
    /// Where the next message starts in `buffer`.
    start: usize,
}

impl FrameSplitter {
    /// Adds bytes that were read. The buffer never holds more than was pushed.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message with its header, or `None` until more bytes come. `max_len` is
    /// [`crate::SessionContext::max_receive_len`].
    ///
    /// # Errors
    /// Marker, length or type of the header is wrong: the session ends.
    pub fn next_frame(&mut self, _max_len: u16) -> Result<Option<&[u8]>, DecodeError> {
        todo!()
    }
}
