//! A cursor over received bytes. Every step says whether the bytes are there, so that no decoder can index past them.

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A part that starts with its own length in one octet.
    pub(crate) fn counted_u8(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first()?;
        let taken = rest.get(..usize::from(*length))?;
        self.rest = &rest[taken.len()..];
        Some(taken)
    }

    /// A part that starts with its own length in two octets.
    pub(crate) fn counted_u16(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk()?;
        let taken = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
        self.rest = &rest[taken.len()..];
        Some(taken)
    }
}
