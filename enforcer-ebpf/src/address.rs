//! What deciding asks of an address, the same for both families.

use crate::{
    abi::{EgressEntry, Image, Policy},
    parse::{Flow, Packet, V4, V6, quoted4, quoted6},
    tables::{self, Tables},
};

/// What `decide` asks of an address of either family.
pub trait Address: Copy + Eq {
    /// Whether it is an IPv4 address.
    const IS_V4: bool;
    /// Policy of the frontend at this address, 0 if there is none.
    fn frontend_policy(self, image: &Image, protocol: u32, port: u32) -> u32;
    /// Whether it is an address of a node of the seed.
    fn is_node(self, image: &Image) -> bool;
    /// Whether any frontend is at this address.
    fn has_frontend(self, image: &Image) -> bool;
    /// What is known of the pod with this address: bits `abi::POD_*`.
    fn pod(self, image: &Image) -> u32;
    /// Whether the policy's list holds this address.
    fn is_in<T: Tables>(self, policy: &Policy, tables: &T) -> bool;
    /// The same by the policy's number, for lists that are not asked of every packet.
    fn is_held<T: Tables>(self, policy: u32, tables: &T) -> bool;
    /// The packet of this family that an ICMP error quotes at this place.
    fn quoted<P: Packet>(packet: &P, at: u32) -> Option<Flow<Self>>;
    /// Whether a gated pod has it.
    fn is_own(self, entry: &EgressEntry) -> bool;
    /// As an IPv6 address, upper and lower half; IPv4 is mapped (RFC 4291, 2.5.5.2).
    fn mapped(self) -> [u64; 2];
}

impl Address for V4 {
    const IS_V4: bool = true;

    #[inline(always)]
    fn frontend_policy(self, image: &Image, protocol: u32, port: u32) -> u32 {
        tables::frontend4_policy(image, self.0, protocol, port)
    }

    #[inline(always)]
    fn is_node(self, image: &Image) -> bool {
        tables::is_node4(image, self.0)
    }

    /// Asked only of IPv6: nothing hides the ports of an IPv4 packet.
    #[inline(always)]
    fn has_frontend(self, _image: &Image) -> bool {
        false
    }

    #[inline(always)]
    fn pod(self, image: &Image) -> u32 {
        tables::pod4(image, self.0)
    }

    #[inline(always)]
    fn is_in<T: Tables>(self, policy: &Policy, tables: &T) -> bool {
        tables.admits4(policy, self.0)
    }

    #[inline(always)]
    fn is_held<T: Tables>(self, policy: u32, tables: &T) -> bool {
        tables.holds4(policy, self.0)
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, at: u32) -> Option<Flow<Self>> {
        quoted4(packet, at)
    }

    #[inline(always)]
    fn is_own(self, entry: &EgressEntry) -> bool {
        self.0 == entry.v4 && self.0 != 0
    }

    #[inline(always)]
    fn mapped(self) -> [u64; 2] {
        [0, 0xffff << 32 | u64::from(self.0)]
    }
}

impl Address for V6 {
    const IS_V4: bool = false;

    #[inline(always)]
    fn frontend_policy(self, image: &Image, protocol: u32, port: u32) -> u32 {
        tables::frontend6_policy(image, self.high, self.low, protocol, port)
    }

    #[inline(always)]
    fn is_node(self, image: &Image) -> bool {
        tables::is_node6(image, self.high, self.low)
    }

    #[inline(always)]
    fn has_frontend(self, image: &Image) -> bool {
        self.is_node(image) || tables::has_frontend6(image, self.high, self.low)
    }

    #[inline(always)]
    fn pod(self, image: &Image) -> u32 {
        tables::pod6(image, self.high, self.low)
    }

    #[inline(always)]
    fn is_in<T: Tables>(self, policy: &Policy, tables: &T) -> bool {
        tables.admits6(policy, self.high, self.low)
    }

    #[inline(always)]
    fn is_held<T: Tables>(self, policy: u32, tables: &T) -> bool {
        tables.holds6(policy, self.high, self.low)
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, at: u32) -> Option<Flow<Self>> {
        quoted6(packet, at)
    }

    #[inline(always)]
    fn is_own(self, entry: &EgressEntry) -> bool {
        [self.high, self.low] == entry.v6 && self.high | self.low != 0
    }

    #[inline(always)]
    fn mapped(self) -> [u64; 2] {
        [self.high, self.low]
    }
}
