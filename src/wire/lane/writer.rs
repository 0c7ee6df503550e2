//! Writes records one behind the other into the sealed part of a datagram.

pub const RECORD_HEAD: usize = 2;
pub(super) const RECORD_BODY_MAX: usize = (1 << 11) - 1;

pub struct RecordWriter<'a> {
    bytes: &'a mut [u8],
    used: usize,
}

impl<'a> RecordWriter<'a> {
    /// `bytes`: as many as records may take.
    pub fn new(bytes: &'a mut [u8]) -> RecordWriter<'a> {
        RecordWriter { bytes, used: 0 }
    }

    pub fn used(&self) -> usize {
        self.used
    }

    pub fn room(&self) -> usize {
        self.bytes.len() - self.used
    }

    /// Appends a record whose body is the `parts` one behind the other. False, and nothing written: it does not fit.
    pub fn push(&mut self, kind: u8, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > RECORD_BODY_MAX || RECORD_HEAD + len > self.room() {
            return false;
        }
        self.raw(&(u16::from(kind) << 11 | len as u16).to_be_bytes());
        parts.iter().for_each(|part| self.raw(part));
        true
    }

    /// Fills `len` bytes with padding, which goes up to the end of the datagram.
    pub fn pad(&mut self, len: usize) {
        let end = (self.used + len).min(self.bytes.len());
        self.bytes[self.used..end].fill(0);
        self.used = end;
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_fits_whole_or_is_not_written() {
        let mut bytes = [9; 10];
        let mut writer = RecordWriter::new(&mut bytes);
        assert!(writer.push(1, &[b"ab", b"c"]) && writer.room() == 5);
        assert!(!writer.push(2, &[b"abcd"]) && writer.used() == 5);
        assert!(writer.push(31, &[b"ab"]));
        writer.pad(3);
        assert_eq!((writer.used(), bytes), (10, [0b0000_1000, 3, b'a', b'b', b'c', 0b1111_1000, 2, b'a', b'b', 0]));
    }
}
