//! Frame to message.

mod attribute;
mod mp;
mod nlri;
mod open;
mod update;

use crate::frame::check_header;
use crate::reader::Reader;
use crate::{
    Afi, DecodeError, Decoded, Family, HEADER_LEN, HeaderError, Message, MessageType, Notification, NotificationCode,
    RefreshKind, RouteRefresh, RouteRefreshError, Safi, SessionContext,
};

impl Message {
    /// Reads one whole message, header included, as [`crate::FrameSplitter::next_frame`] gives it.
    ///
    /// # Errors
    /// The session must end; the error carries the NOTIFICATION.
    pub fn decode(frame: &[u8], context: &SessionContext) -> Result<Decoded, DecodeError> {
        let Some((header, body)) = frame.split_first_chunk::<HEADER_LEN>() else {
            return Err(bad_length(frame, "a frame is shorter than a header"));
        };
        let (message_type, length) = check_header(header, context.max_receive_len)?;
        if frame.len() != length {
            return Err(bad_length(frame, "a frame is not as long as its header says"));
        }
        let message = match message_type {
            MessageType::Open => Message::Open(open::decode(body)?),
            MessageType::Update => {
                let (update, malformed) = update::decode(body, context)?;
                return Ok(Decoded { message: Message::Update(Box::new(update)), malformed });
            }
            MessageType::Notification => Message::Notification(notification(body)?),
            MessageType::Keepalive => Message::Keepalive,
            MessageType::RouteRefresh => Message::RouteRefresh(route_refresh(frame, body)?),
        };
        Ok(Decoded { message, malformed: Vec::new() })
    }
}

/// A frame that cannot come from a splitter.
fn bad_length(frame: &[u8], what: &str) -> DecodeError {
    let length = u16::try_from(frame.len()).unwrap_or(u16::MAX).to_be_bytes();
    DecodeError::new(NotificationCode::Header(HeaderError::BadMessageLength), what, &length)
}

fn notification(body: &[u8]) -> Result<Notification, DecodeError> {
    let mut reader = Reader::new(body);
    // An error in a NOTIFICATION is never answered with one (RFC 4271 section 6.4), but the header has already been
    // checked to leave these two octets.
    let (Some(code), Some(subcode)) = (reader.u8(), reader.u8()) else {
        return Err(bad_length(body, "a NOTIFICATION without code and subcode"));
    };
    Ok(Notification { code: NotificationCode::from_wire(code, subcode), data: reader.rest().to_vec() })
}

fn route_refresh(frame: &[u8], body: &[u8]) -> Result<RouteRefresh, DecodeError> {
    let [afi_high, afi_low, kind, safi] = *body else {
        return Err(DecodeError::new(
            NotificationCode::RouteRefresh(RouteRefreshError::InvalidMessageLength),
            format!("a ROUTE-REFRESH carries {} octets, expected 4", body.len()),
            frame,
        ));
    };
    let family = Family { afi: Afi(u16::from_be_bytes([afi_high, afi_low])), safi: Safi(safi) };
    let kind = match kind {
        0 => RefreshKind::Request,
        1 => RefreshKind::Begin,
        2 => RefreshKind::End,
        other => RefreshKind::Other(other),
    };
    Ok(RouteRefresh { family, kind })
}
