//! What processes of one machine say to each other over the bus's socket: a length, a kind, and what belongs to it. Read
//! within bounds; what is none of these ends the connection.

use crate::base::limits::BUS_MESSAGE_BYTES_MAX;

/// The seal's own bytes, subjects and the kind beside a message.
const OVERHEAD: usize = 4_096;
pub(super) const FRAME_BYTES_MAX: usize = BUS_MESSAGE_BYTES_MAX + OVERHEAD;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum BusFrame {
    Subscribe(String),
    Unsubscribe(String),
    /// To the broker, and from it.
    Message {
        subject: String,
        reply: Option<String>,
        payload: Vec<u8>,
    },
    /// Nobody listened; the inbox of the question.
    Nobody(String),
    /// Frames for this process were lost.
    Behind,
}

fn put(text: &str, into: &mut Vec<u8>) {
    // Subjects are far shorter.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

fn take(bytes: &mut &[u8]) -> Option<String> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

impl BusFrame {
    /// With its length in front.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        match self {
            BusFrame::Subscribe(subject) => {
                bytes.push(1);
                put(subject, &mut bytes);
            }
            BusFrame::Unsubscribe(subject) => {
                bytes.push(2);
                put(subject, &mut bytes);
            }
            BusFrame::Message { subject, reply, payload } => {
                bytes.push(if reply.is_some() { 4 } else { 3 });
                put(subject, &mut bytes);
                if let Some(reply) = reply {
                    put(reply, &mut bytes);
                }
                bytes.extend_from_slice(payload);
            }
            BusFrame::Nobody(inbox) => {
                bytes.push(5);
                put(inbox, &mut bytes);
            }
            BusFrame::Behind => bytes.push(6),
        }
        let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// Reads what stands behind the length.
    pub(super) fn parse(bytes: &[u8]) -> Option<BusFrame> {
        let (kind, mut rest) = bytes.split_first()?;
        let frame = match kind {
            1 => BusFrame::Subscribe(take(&mut rest)?),
            2 => BusFrame::Unsubscribe(take(&mut rest)?),
            3 | 4 => {
                let subject = take(&mut rest)?;
                let reply = if *kind == 4 { Some(take(&mut rest)?) } else { None };
                return Some(BusFrame::Message { subject, reply, payload: rest.to_vec() });
            }
            5 => BusFrame::Nobody(take(&mut rest)?),
            6 => BusFrame::Behind,
            _ => return None,
        };
        rest.is_empty().then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_and_a_torn_one_is_none() {
        let message = |reply: Option<&str>, payload: &[u8]| BusFrame::Message {
            subject: "a.b".to_owned(),
            reply: reply.map(str::to_owned),
            payload: payload.to_vec(),
        };
        let frames = [
            BusFrame::Subscribe("a.>".to_owned()),
            BusFrame::Unsubscribe(String::new()),
            message(None, b""),
            message(Some("é"), b"12345"),
            BusFrame::Nobody("in.1".to_owned()),
            BusFrame::Behind,
        ];
        for frame in frames {
            let bytes = frame.to_bytes();
            let (length, body) = bytes.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_be_bytes(*length) as usize, body.len());
            assert_eq!(BusFrame::parse(body), Some(frame.clone()));
            if !matches!(frame, BusFrame::Message { .. }) {
                assert!((0..body.len()).all(|end| BusFrame::parse(&body[..end]).is_none()), "{frame:?}");
                assert_eq!(BusFrame::parse(&[body, b"x"].concat()), None);
            }
        }
        for bad in [&[] as &[u8], &[0], &[9, 0, 0], &[3, 0], &[3, 0, 9, b'a'], &[1, 0, 1, 0xff]] {
            assert_eq!(BusFrame::parse(bad), None, "{bad:?}");
        }
    }
}
