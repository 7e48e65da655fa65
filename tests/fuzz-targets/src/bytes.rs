//! Bytes as a packet, and as small numbers.

use enforcer_ebpf::parse::Packet;
use zerocopy::{FromBytes, Immutable};

/// A packet that lies in memory as a whole.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Packet for Bytes<'_> {
    fn load<T: FromBytes + Immutable>(&self, offset: u32) -> Option<T> {
        T::read_from_prefix(self.0.get(offset as usize..)?).ok().map(|(value, _)| value)
    }
}

/// Numbers drawn from bytes; zeroes when they are used up.
pub(crate) struct Draw<'a>(pub(crate) &'a [u8]);

impl Draw<'_> {
    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, limit: u8) -> usize {
        usize::from(self.byte() % limit)
    }
}
