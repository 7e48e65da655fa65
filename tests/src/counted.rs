//! What the kernel counted, as the agent's `/metrics` tells it.

use std::ops::Sub;

use anyhow::Result;

use crate::agent::Agent;
use crate::http::samples;

/// Packets to the guarded frontends of one cluster, and of the whole node by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// To the cluster, let through.
    pub allowed: u64,
    /// To the cluster, dropped.
    pub denied: u64,
    /// To the cluster, let through in audit mode only.
    pub would_deny: u64,
    /// To any cluster: the source is exempt.
    pub exempt: u64,
    /// To any cluster: the source is neither in its list nor exempt.
    pub not_listed: u64,
}

impl Counted {
    /// Reads the counters now; those of a cluster that nothing restricts are zero.
    pub fn now(agent: &Agent, cluster: &str) -> Result<Counted> {
        let page = agent.metrics()?;
        let one = |name, labels: &[(&str, &str)]| samples(&page, name, labels).iter().sum::<f64>();
        let packets = |verdict| {
            one("enforcer_packets_total", &[("cluster", cluster), ("verdict", verdict)]) as u64
        };
        let reason = |reason| one("enforcer_verdicts_total", &[("reason", reason)]) as u64;
        Ok(Counted {
            allowed: packets("allowed"),
            denied: packets("denied"),
            would_deny: packets("would_deny"),
            exempt: reason("exempt"),
            not_listed: reason("not_listed"),
        })
    }
}

impl Sub for Counted {
    type Output = Counted;

    /// What was counted since `before`.
    fn sub(self, before: Counted) -> Counted {
        let Counted { allowed, denied, would_deny, exempt, not_listed } = before;
        Counted {
            allowed: self.allowed - allowed,
            denied: self.denied - denied,
            would_deny: self.would_deny - would_deny,
            exempt: self.exempt - exempt,
            not_listed: self.not_listed - not_listed,
        }
    }
}
