//! Frame to message.

use crate::{DecodeError, Decoded, Message, SessionContext};

impl Message {
    /// Reads one whole message, header included, as [`crate::FrameSplitter::next_frame`] gives it.
    ///
    /// # Errors
    /// The session must end; the error carries the NOTIFICATION.
    pub fn decode(_frame: &[u8], _context: &SessionContext) -> Result<Decoded, DecodeError> {
        todo!()
    }
}
