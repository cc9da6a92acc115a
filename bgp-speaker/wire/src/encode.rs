//! Message to bytes.

use crate::{EncodeError, Message, SessionContext};

impl Message {
    /// Appends the message, header included. An UPDATE must fit one message; [`crate::pack`] splits. On error nothing was
    /// appended.
    pub fn encode(&self, _context: &SessionContext, _out: &mut Vec<u8>) -> Result<(), EncodeError> {
        todo!()
    }
}
