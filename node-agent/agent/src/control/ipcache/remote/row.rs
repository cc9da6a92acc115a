//! A remote address in 20 bytes.

/// What the map holds and should hold of a row.
pub(super) mod flag {
    /// The map holds a row at this prefix because of us.
    pub(crate) const HELD: u8 = 1;
    /// And it says what it should.
    pub(crate) const CURRENT: u8 = 1 << 1;
    /// Waits for its turn to be written.
    pub(crate) const DIRTY: u8 = 1 << 2;
    /// No longer wanted; it stays until the map has let it go.
    pub(crate) const GONE: u8 = 1 << 3;
    /// Lies in a range that is another cluster's, or ours.
    pub(crate) const REFUSED: u8 = 1 << 4;
    /// This cluster knows the prefix itself and has its own row in the map.
    pub(crate) const LOCAL: u8 = 1 << 5;
}

/// A half million of these have to fit (see `size`), so that the revision is kept in 48 bits: an etcd that changes a
/// million times a second reaches that after nine years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    revision_low: u32,
    revision_high: u16,
    pub(super) cluster: u16,
    pub(super) identity: u32,
    /// Index of the node's address; [`NO_HOST`] without one.
    pub(super) host: u32,
    pub(super) generation: u8,
    flags: u8,
}

pub(super) const NO_HOST: u32 = u32::MAX;

const _: () = assert!(size_of::<Row>() == 20);

impl Row {
    #[expect(clippy::cast_possible_truncation, reason = "the parts of a number")]
    pub(super) fn new(cluster: u16, identity: u32, host: u32, revision: u64, generation: u8) -> Row {
        Row {
            revision_low: revision as u32,
            revision_high: (revision >> 32) as u16,
            cluster,
            identity,
            host,
            generation,
            flags: 0,
        }
    }

    pub(super) fn revision(&self) -> u64 {
        u64::from(self.revision_high) << 32 | u64::from(self.revision_low)
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn put(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// Takes another's words and keeps what is known of the map.
    pub(super) fn succeed(&mut self, new: Row) {
        let same = self.identity == new.identity;
        let kept = self.flags & (flag::HELD | flag::DIRTY | flag::LOCAL | if same { flag::CURRENT } else { 0 });
        *self = Row { flags: kept | (new.flags & flag::REFUSED), ..new };
    }

    /// Whether the map should hold it.
    pub(super) fn wanted(&self) -> bool {
        !self.has(flag::GONE | flag::REFUSED | flag::LOCAL)
    }

    /// What must be done to the map.
    pub(super) fn step(&self) -> Step {
        match (self.wanted(), self.has(flag::HELD), self.has(flag::CURRENT)) {
            (true, _, false) => Step::Write,
            (false, true, _) => Step::Delete,
            (true, _, true) | (false, false, _) => Step::Nothing,
        }
    }

    /// The smaller is believed: one that lies in its own cluster's range, then the smaller number.
    pub(super) fn rank(&self) -> (bool, u16) {
        (self.has(flag::REFUSED), self.cluster)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Write,
    Delete,
}
