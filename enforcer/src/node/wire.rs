//! Netlink messages to facts.
//!
//! Input: payloads of `RTM_NEWLINK`, `RTM_NEWADDR`, `RTM_NEWROUTE` and `RTM_NEWNEIGH`. Output:
//! [`Link`], [`Assigned`], [`Route`], [`Neighbour`]. Invariant: reads the few attributes that matter and steps over all
//! others. A whole parser refuses a device for one statistic that it does not know, and a device
//! that is missing is one that is not guarded.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::{
    packet_core::{DecodeError, Emitable, NlaBuffer, NlasIterator, parse_ip, parse_u32},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressHeader, AddressMessage},
        link::{LinkAttribute, LinkExtentMask, LinkHeader, LinkMessage},
        neighbour::{NeighbourHeader, NeighbourMessage, NeighbourState},
        route::{RouteHeader, RouteMessage, RouteType},
    },
};

use super::{
    Listing, Preemption,
    facts::{Assigned, Far, Kind, Link, Lower, Neighbour, Route},
};

/// The request that makes the kernel list everything of this sort.
pub(super) fn request(listing: Listing) -> RouteNetlinkMessage {
    let routes = |family| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        RouteNetlinkMessage::GetRoute(message)
    };
    match listing {
        Listing::Links => {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            RouteNetlinkMessage::GetLink(message)
        }
        Listing::Addresses | Listing::PodAddresses => {
            RouteNetlinkMessage::GetAddress(AddressMessage::default())
        }
        Listing::RoutesV4 => routes(AddressFamily::Inet),
        Listing::RoutesV6 => routes(AddressFamily::Inet6),
        Listing::Neighbours => RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
    }
}

/// The request that makes the kernel list the addresses of a device in another network namespace.
/// It is heeded on a socket that checks strictly; on others the kernel lists its own addresses.
pub(super) fn far_addresses(far: Far, family: AddressFamily) -> RouteNetlinkMessage {
    let Far { index, netns } = far;
    let mut message = AddressMessage::default();
    (message.header.family, message.header.index) = (family, index);
    let netns = i32::try_from(netns).unwrap_or(-1);
    message.attributes.push(AddressAttribute::TargetNetNsId(netns));
    RouteNetlinkMessage::GetAddress(message)
}

/// Reads a network device.
pub(super) fn link(payload: &[u8]) -> Result<Link, DecodeError> {
    let header = LinkHeader::parse(payload)?;
    let (mut name, mut info_kind, mut lower) = (None, None, None);
    let (mut netns, mut controller, mut port_name) = (None, None, None);
    let mut xdp = false;
    for attribute in attributes(payload, header.buffer_len()) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            libc::IFLA_IFNAME => name = Some(text(value)),
            libc::IFLA_LINK => lower = Some(parse_u32(value)?),
            libc::IFLA_LINK_NETNSID => netns = Some(parse_u32(value)?),
            libc::IFLA_MASTER => controller = Some(parse_u32(value)?),
            libc::IFLA_PHYS_PORT_NAME => port_name = Some(text(value)),
            libc::IFLA_XDP => xdp = has_xdp(value)?,
            libc::IFLA_LINKINFO => info_kind = kind_in(value)?,
            _ => {}
        }
    }
    let kind = Kind::of(info_kind.as_deref());
    let preempted = match info_kind.as_deref() {
        _ if xdp => Some(Preemption::Xdp),
        Some("netkit") => Some(Preemption::Netkit),
        _ => None,
    };
    // A namespace that is about to go has no number: -1.
    let named = netns.filter(|netns| i32::try_from(*netns).is_ok() && kind == Kind::Pair);
    let far = lower.zip(named).map(|(index, netns)| Far { index, netns });
    Ok(Link {
        index: header.index,
        name: name.ok_or_else(|| DecodeError::from("a network device without a name"))?,
        kind,
        arphrd: header.link_layer_type.into(),
        lower: match lower {
            _ if netns.is_some() => Lower::Elsewhere,
            // 0: a tunnel that is bound to no device.
            None | Some(0) => Lower::None,
            Some(index) => Lower::Here(index),
        },
        far,
        controller: controller.filter(|index| *index != 0),
        port_name,
        preempted,
    })
}

/// Whether an XDP program hangs on a device, as `IFLA_XDP` says.
fn has_xdp(value: &[u8]) -> Result<bool, DecodeError> {
    const IFLA_XDP_ATTACHED: u16 = 2;
    for attribute in NlasIterator::new(value) {
        let attribute: NlaBuffer<&[u8]> = attribute?;
        if attribute.kind() == IFLA_XDP_ATTACHED {
            return Ok(attribute.value().first().is_some_and(|mode| *mode != 0));
        }
    }
    Ok(false)
}

/// Reads an address of a network device; `None` where it is neither IPv4 nor IPv6.
pub(super) fn address(payload: &[u8]) -> Result<Option<Assigned>, DecodeError> {
    let header = AddressHeader::parse(payload)?;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return Ok(None);
    }
    let (mut address, mut local) = (None, None);
    for attribute in attributes(payload, header.buffer_len()) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::IFA_ADDRESS => address = Some(parse_ip(attribute.value())?),
            libc::IFA_LOCAL => local = Some(parse_ip(attribute.value())?),
            _ => {}
        }
    }
    // With a peer, IFA_ADDRESS and the prefix are the peer's.
    let missing = || DecodeError::from("an address without bytes");
    let reached = address.or(local).ok_or_else(missing)?;
    let network = IpNet::new(reached, header.prefix_len)
        .map_err(|_| DecodeError::from("an address with too long a prefix"))?;
    let address = local.unwrap_or(reached);
    Ok(Some(Assigned { index: header.index, address, network: network.trunc() }))
}

/// Reads a neighbour; `None` where it is not IP, or comes and goes by itself.
pub(super) fn neighbour(payload: &[u8]) -> Result<Option<Neighbour>, DecodeError> {
    let header = NeighbourHeader::parse(payload)?;
    let permanent = header.state == NeighbourState::Permanent;
    if !permanent || !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return Ok(None);
    }
    for attribute in attributes(payload, header.buffer_len()) {
        let attribute = attribute?;
        if attribute.kind() == libc::NDA_DST {
            let address = parse_ip(attribute.value())?;
            return Ok(Some(Neighbour { index: header.ifindex, address }));
        }
    }
    Ok(None)
}

/// The device that a neighbour message is about.
pub(super) fn neighbour_device(payload: &[u8]) -> Result<u32, DecodeError> {
    NeighbourHeader::parse(payload).map(|header| header.ifindex)
}

/// The device that an address message is about.
pub(super) fn address_device(payload: &[u8]) -> Result<u32, DecodeError> {
    AddressHeader::parse(payload).map(|header| header.index)
}

/// Reads a route; `None` where it says nothing about the node.
pub(super) fn route(payload: &[u8]) -> Result<Option<Route>, DecodeError> {
    let header = RouteHeader::parse(payload)?;
    let unspecified = if header.address_family == AddressFamily::Inet {
        IpAddr::from([0; 4])
    } else if header.address_family == AddressFamily::Inet6 {
        IpAddr::from([0; 16])
    } else {
        // Multicast and label routes come on the same channel.
        return Ok(None);
    };
    let default = header.kind == RouteType::Unicast && header.destination_prefix_length == 0;
    if !default && header.kind != RouteType::Local {
        return Ok(None);
    }
    let (mut table, mut out, mut destination) = (u32::from(header.table), None, None);
    let mut through = Vec::new();
    for attribute in attributes(payload, header.buffer_len()) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            libc::RTA_TABLE => table = parse_u32(value)?,
            libc::RTA_OIF => out = Some(parse_u32(value)?),
            libc::RTA_DST => destination = Some(parse_ip(value)?),
            libc::RTA_MULTIPATH => next_hops(value, &mut through)?,
            _ => {}
        }
    }
    if default {
        through.extend(out);
        let main = table == u32::from(libc::RT_TABLE_MAIN);
        return Ok(main.then_some(Route::Default { through }));
    }
    if table != u32::from(libc::RT_TABLE_LOCAL) {
        return Ok(None);
    }
    let address = destination.unwrap_or(unspecified);
    let range = IpNet::new(address, header.destination_prefix_length)
        .map_err(|_| DecodeError::from("a route with too long a prefix"))?;
    Ok(Some(Route::Local { index: out, range }))
}

/// The devices of `struct rtnexthop { u16 length; u8 flags; u8 hops; i32 device; attributes }`.
fn next_hops(mut bytes: &[u8], through: &mut Vec<u32>) -> Result<(), DecodeError> {
    while let Some((head, _)) = bytes.split_first_chunk::<8>() {
        let [l0, l1, _flags, _hops, d0, d1, d2, d3] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        if length < head.len() || length > bytes.len() {
            return Err(DecodeError::from("a next hop of a wrong length"));
        }
        through.push(u32::from_ne_bytes([d0, d1, d2, d3]));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

fn attributes(payload: &[u8], header: usize) -> NlasIterator<&[u8]> {
    NlasIterator::new(payload.get(header..).unwrap_or_default())
}

fn kind_in(info: &[u8]) -> Result<Option<String>, DecodeError> {
    for attribute in NlasIterator::new(info) {
        let attribute: NlaBuffer<&[u8]> = attribute?;
        if attribute.kind() == libc::IFLA_INFO_KIND {
            return Ok(Some(text(attribute.value())));
        }
    }
    Ok(None)
}

/// A C string. Names may hold any byte; those that are no text are for display only.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link_message(arphrd: u16, index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0, 0];
        bytes.extend(arphrd.to_ne_bytes());
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(attributes.concat());
        bytes
    }

    fn route_message(family: i32, prefix: u8, table: u8, kind: u8, more: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes =
            vec![u8::try_from(family).unwrap(), prefix, 0, 0, table, 2, 0, kind, 0, 0, 0, 0];
        bytes.extend(more.concat());
        bytes
    }

    #[test]
    fn a_device_with_attributes_that_nobody_knows_is_still_a_device() {
        let info = attribute(libc::IFLA_INFO_KIND, b"vlan\0");
        let bytes = link_message(
            libc::ARPHRD_ETHER,
            7,
            &[
                attribute(libc::IFLA_STATS64, b"far too short"),
                attribute(9_999, &[]),
                attribute(libc::IFLA_IFNAME, b"bond0.5\0"),
                attribute(libc::IFLA_LINK, &3u32.to_ne_bytes()),
                attribute(libc::IFLA_MASTER, &9u32.to_ne_bytes()),
                attribute(libc::IFLA_LINKINFO, &info),
            ],
        );
        let wanted = Link {
            index: 7,
            name: "bond0.5".to_owned(),
            kind: Kind::Stacked,
            arphrd: libc::ARPHRD_ETHER,
            lower: Lower::Here(3),
            far: None,
            controller: Some(9),
            port_name: None,
            preempted: None,
        };
        assert_eq!(link(&bytes).unwrap(), wanted);
    }

    #[test]
    fn an_xdp_program_is_seen_in_whatever_mode_and_its_absence_too() {
        let read = |mode: Option<u8>, kind: &[u8]| {
            let attached = mode.map(|mode| attribute(2, &[mode])).unwrap_or_default();
            let attributes = [
                attribute(libc::IFLA_IFNAME, b"eth0\0"),
                attribute(libc::IFLA_XDP, &attached),
                attribute(libc::IFLA_LINKINFO, &attribute(libc::IFLA_INFO_KIND, kind)),
            ];
            link(&link_message(libc::ARPHRD_ETHER, 2, &attributes)).unwrap().preempted
        };
        for mode in 1..=4 {
            assert_eq!(read(Some(mode), b"veth\0"), Some(Preemption::Xdp), "{mode}");
        }
        assert_eq!(read(Some(0), b"veth\0"), None);
        assert_eq!(read(None, b"veth\0"), None);
        assert_eq!(read(Some(0), b"netkit\0"), Some(Preemption::Netkit));
    }

    #[test]
    fn a_lower_device_in_another_namespace_is_not_one_of_ours() {
        let read = |kind: &[u8], netns: i32| {
            let attributes = [
                attribute(libc::IFLA_IFNAME, b"eth0\0"),
                attribute(libc::IFLA_LINK, &3u32.to_ne_bytes()),
                attribute(libc::IFLA_LINK_NETNSID, &netns.to_ne_bytes()),
                attribute(libc::IFLA_LINKINFO, &attribute(libc::IFLA_INFO_KIND, kind)),
            ];
            let read = link(&link_message(libc::ARPHRD_ETHER, 2, &attributes)).unwrap();
            assert_eq!(read.lower, Lower::Elsewhere);
            read.far
        };
        assert_eq!(read(b"veth\0", 4), Some(Far { index: 3, netns: 4 }));
        assert_eq!(read(b"veth\0", -1), None);
        assert_eq!(read(b"macvlan\0", 4), None);
    }

    #[test]
    fn a_device_without_a_name_or_cut_short_is_an_error_and_not_left_out() {
        assert!(link(&link_message(libc::ARPHRD_ETHER, 2, &[])).is_err());
        let mut bytes = link_message(1, 2, &[attribute(libc::IFLA_IFNAME, b"ethernet0\0")]);
        bytes.truncate(22);
        assert!(link(&bytes).is_err());
        assert!(link(&[0; 7]).is_err());
    }

    #[test]
    fn the_nodes_own_end_of_a_point_to_point_address_counts() {
        let mut bytes = vec![u8::try_from(libc::AF_INET).unwrap(), 32, 0, 0];
        bytes.extend(5u32.to_ne_bytes());
        bytes.extend(attribute(libc::IFA_ADDRESS, &[10, 0, 0, 2]));
        bytes.extend(attribute(libc::IFA_LOCAL, &[10, 0, 0, 1]));
        let network = "10.0.0.2/32".parse().unwrap();
        let wanted = Assigned { index: 5, address: [10, 0, 0, 1].into(), network };
        assert_eq!(address(&bytes).unwrap(), Some(wanted));
    }

    #[test]
    fn of_neighbours_the_permanent_ones_count() {
        let message = |state: u16| {
            let mut bytes = vec![u8::try_from(libc::AF_INET).unwrap(), 0, 0, 0];
            bytes.extend(5u32.to_ne_bytes());
            bytes.extend(state.to_ne_bytes());
            bytes.extend([0, 1]);
            bytes.extend(attribute(libc::NDA_LLADDR, &[2, 0, 0, 0, 0, 1]));
            bytes.extend(attribute(libc::NDA_DST, &[10, 244, 2, 0]));
            bytes
        };
        let wanted = Neighbour { index: 5, address: [10, 244, 2, 0].into() };
        assert_eq!(neighbour(&message(libc::NUD_PERMANENT)).unwrap(), Some(wanted));
        assert_eq!(neighbour(&message(libc::NUD_REACHABLE)).unwrap(), None);
        assert_eq!(neighbour_device(&message(libc::NUD_STALE)).unwrap(), 5);
    }

    #[test]
    fn a_default_route_counts_in_the_main_table_and_over_all_its_next_hops() {
        let hop = |device: u32| {
            let gateway = attribute(libc::RTA_GATEWAY, &[10, 0, 0, 1]);
            let mut bytes = 16u16.to_ne_bytes().to_vec();
            bytes.extend([0, 0]);
            bytes.extend(device.to_ne_bytes());
            bytes.extend(gateway);
            bytes
        };
        let hops = attribute(libc::RTA_MULTIPATH, &[hop(4), hop(6)].concat());
        let main = route_message(libc::AF_INET, 0, 254, 1, std::slice::from_ref(&hops));
        assert_eq!(route(&main).unwrap(), Some(Route::Default { through: vec![4, 6] }));
        let table = attribute(libc::RTA_TABLE, &1_000u32.to_ne_bytes());
        let other = route_message(libc::AF_INET, 0, 252, 1, &[hops, table]);
        assert_eq!(route(&other).unwrap(), None);
        let unreachable = route_message(libc::AF_INET6, 0, 254, 7, &[]);
        assert_eq!(route(&unreachable).unwrap(), None);
    }

    #[test]
    fn a_local_route_counts_in_the_local_table() {
        let more = [
            attribute(libc::RTA_DST, &[198, 51, 100, 7]),
            attribute(libc::RTA_OIF, &1u32.to_ne_bytes()),
        ];
        let wanted = Route::Local { index: Some(1), range: "198.51.100.7/32".parse().unwrap() };
        let local = route_message(libc::AF_INET, 32, 255, 2, &more);
        assert_eq!(route(&local).unwrap(), Some(wanted));
        let elsewhere = route_message(libc::AF_INET, 32, 100, 2, &more);
        assert_eq!(route(&elsewhere).unwrap(), None);
    }
}
