//! The objects of one user cluster of a fleet, with ranges drawn by its number.

use enforcer_tests::fleet;
use serde_json::Value;

use crate::world::Random;

/// Bytes of a real Cluster besides what matters here: conditions, and what kubectl applied last.
const REST: usize = 5_000;

/// Name of a cluster.
pub(crate) fn name(number: usize) -> String {
    format!("fleet{number:05}")
}

/// Everything of one cluster.
pub(crate) fn all(number: usize, ranges: usize) -> Vec<Value> {
    fleet::objects(&name(number), number, &list(number, ranges), REST)
}

/// Its Cluster.
pub(crate) fn cluster(number: usize, ranges: usize) -> Value {
    fleet::cluster(&name(number), number, &list(number, ranges), REST)
}

/// Ranges, three of four IPv4: /20 to /32, /44 to /64.
fn list(number: usize, ranges: usize) -> Vec<String> {
    let mut random = Random::new(number as u64 + 100);
    let one = |at: usize| {
        if at % 4 == 3 {
            let address = 1_u128 << 125 | random.wide() >> 3;
            let length = 44 + random.below(21) as u8;
            format!(
                "{}/{length}",
                std::net::Ipv6Addr::from(address & (u128::MAX << (128 - length)))
            )
        } else {
            let address = (11 << 24) + random.below(180 << 24) as u32;
            let length = 20 + random.below(13) as u8;
            format!("{}/{length}", std::net::Ipv4Addr::from(address & (u32::MAX << (32 - length))))
        }
    };
    (0..ranges).map(one).collect()
}
