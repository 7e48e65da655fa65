//! Numbers, addresses and ranges by chance, the same for the same seed.

use std::net::IpAddr;

use ipnet::IpNet;

/// SplitMix64: passes what matters here, and is four lines.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// So many times in a hundred.
    pub(crate) fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Any address of a range.
    pub(crate) fn inside(&mut self, range: IpNet) -> IpAddr {
        let bits = u128::from(self.next()) << 64 | u128::from(self.next());
        match range {
            IpNet::V4(net) => {
                let host = u32::from(net.hostmask()) & bits as u32;
                IpAddr::V4((u32::from(net.network()) | host).into())
            }
            IpNet::V6(net) => {
                let host = u128::from(net.hostmask()) & bits;
                IpAddr::V6((u128::from(net.network()) | host).into())
            }
        }
    }

    /// A range in one of these, longer than it by up to so many bits.
    pub(crate) fn range(&mut self, bases: &[&str], longer: u8) -> IpNet {
        let base: IpNet = self.one(bases).parse().unwrap();
        let most = longer.min(base.max_prefix_len() - base.prefix_len());
        let length = base.prefix_len() + self.below(usize::from(most) + 1) as u8;
        IpNet::new(self.inside(base), length).unwrap().trunc()
    }

    /// An address in a range, at one of its ends, or next to it.
    pub(crate) fn around(&mut self, range: IpNet) -> IpAddr {
        match self.below(10) {
            0 => range.network(),
            1 => range.broadcast(),
            2 => beside(range.network(), -1),
            3 => beside(range.broadcast(), 1),
            _ => self.inside(range),
        }
    }
}

fn beside(address: IpAddr, step: i32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).wrapping_add_signed(step).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).wrapping_add_signed(step.into()).into()),
    }
}
