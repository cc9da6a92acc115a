//! Cuts a byte stream into messages (RFC 4271 section 4.1 and 6.1).

use crate::{DecodeError, HEADER_LEN, HeaderError, MAX_MESSAGE_LEN, MessageType, NotificationCode};

/// Holds what came from a connection until a whole message is there. Drop it with the connection, or after an error: the
/// stream has no way to find the next message.
#[derive(Debug, Default)]
pub struct FrameSplitter {
    buffer: Vec<u8>,
    /// Where the next message starts in `buffer`.
    start: usize,
}

impl FrameSplitter {
    /// Adds bytes that were read. The buffer holds no more than was pushed and not yet taken, so a driver that takes all
    /// frames after each read keeps it below one message and one read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message with its header, or `None` until more bytes come. `max_len` is
    /// [`crate::SessionContext::max_receive_len`]. A bad header is found as soon as its 19 octets are there.
    ///
    /// # Errors
    /// Marker, length or type of the header is wrong: the session ends.
    pub fn next_frame(&mut self, max_len: u16) -> Result<Option<&[u8]>, DecodeError> {
        let pending = &self.buffer[self.start..];
        let Some(header) = pending.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let (_, length) = check_header(header, max_len)?;
        if pending.len() < length {
            return Ok(None);
        }
        let start = self.start;
        self.start += length;
        Ok(Some(&self.buffer[start..self.start]))
    }

    /// Octets that wait for the rest of their message.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

/// Type and whole length that a header claims, if it may.
pub(crate) fn check_header(header: &[u8; HEADER_LEN], max_len: u16) -> Result<(MessageType, usize), DecodeError> {
    let error = |error, what: String, data: &[u8]| DecodeError::new(NotificationCode::Header(error), what, data);
    let (marker, rest) = header.split_at(16);
    let (length_octets, code) = (&rest[..2], rest[2]);
    if marker.iter().any(|octet| *octet != 0xff) {
        return Err(error(
            HeaderError::ConnectionNotSynchronized,
            "the marker is not all ones: this is not BGP, or the stream is out of step".to_owned(),
            &[],
        ));
    }
    let length = u16::from_be_bytes([length_octets[0], length_octets[1]]);
    if usize::from(length) < HEADER_LEN || length > max_len {
        let what = format!("a message claims {length} octets, allowed are {HEADER_LEN} to {max_len}");
        return Err(error(HeaderError::BadMessageLength, what, length_octets));
    }
    let Some(message_type) = MessageType::from_code(code) else {
        return Err(error(HeaderError::BadMessageType, format!("message type {code} is not known"), &[code]));
    };
    // RFC 8654 section 4 leaves OPEN and KEEPALIVE at the old limit.
    let longest = match message_type {
        MessageType::Open => max_len.min(MAX_MESSAGE_LEN),
        MessageType::Keepalive => message_type.min_len(),
        MessageType::Update | MessageType::Notification | MessageType::RouteRefresh => max_len,
    };
    if length < message_type.min_len() || length > longest {
        let shortest = message_type.min_len();
        let what = format!("{message_type} of {length} octets, allowed are {shortest} to {longest}");
        return Err(error(HeaderError::BadMessageLength, what, length_octets));
    }
    Ok((message_type, usize::from(length)))
}
