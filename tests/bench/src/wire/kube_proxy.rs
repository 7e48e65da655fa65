//! What kube-proxy's nftables mode writes for a service with `loadBalancerSourceRanges`.
//!
//! After the proxier of Kubernetes 1.31 to 1.34 (`pkg/proxy/nftables`): for new connections, a chain at
//! priority -110 of prerouting looks up destination, protocol and port in the verdict map
//! `firewall-ips`; the service's own chain drops every source that is not in an anonymous set.
//! Address translation (`service-ips` and the chains behind it) is there in every bed.

use super::{
    bed::{PORT, VIP},
    ranges::Ranges,
};

/// The part for source ranges, as a table beside that of address translation.
pub(crate) fn firewall(ranges: &Ranges) -> String {
    let sources: Vec<String> = ranges.texts().collect();
    format!(
        "table ip kube-proxy-firewall\ndelete table ip kube-proxy-firewall\n\
         table ip kube-proxy-firewall {{\n\
           map firewall-ips {{\n\
             type ipv4_addr . inet_proto . inet_service : verdict\n\
             comment \"destinations that are subject to LoadBalancerSourceRanges\"\n\
             elements = {{ {VIP} . tcp . {PORT} : goto firewall-c1/front-loadbalancer/tcp/secure }}\n\
           }}\n\
           chain firewall-c1/front-loadbalancer/tcp/secure {{\n\
             ip saddr != {{ {} }} drop\n\
           }}\n\
           chain firewall-check {{\n\
             ip daddr . meta l4proto . th dport vmap @firewall-ips\n\
           }}\n\
           chain filter-prerouting-pre-dnat {{\n\
             type filter hook prerouting priority -110; policy accept;\n\
             ct state new jump firewall-check\n\
           }}\n\
         }}\n",
        sources.join(", ")
    )
}
