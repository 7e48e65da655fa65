//! What `explain` says of thousands of generated questions is what packets get on the wire: each is sent
//! where it would come in, seen behind the hook or not, and counted under the reason that was said. Needs
//! root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

mod draw;
mod fleet;
mod questions;
mod said;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use draw::Draw;
use fleet::Fleet;
use said::{Case, ask};
use wire::Wire;

/// Fleets that are drawn anew.
const SEEDS: [u64; 2] = [9, 2026];
/// Questions about connections to API servers, of one fleet.
const TO: usize = 1_300;
/// Questions about connections that API servers open.
const FROM: usize = 350;

#[test]
fn thousands_of_generated_questions_are_answered_as_packets_are_judged() {
    let mut fleet = Fleet::build();
    let agent = fleet.installation.start().unwrap();
    let mut tally = Tally::default();
    for seed in SEEDS {
        let mut draw = Draw::new(seed);
        agent.enforces(|| fleet.redraw(&mut draw)).unwrap();
        let targets = fleet.targets();
        let mut asked = questions::to_api_servers(&fleet, &targets, &mut draw, TO);
        asked.extend(questions::from_api_servers(&fleet, &targets, &mut draw, FROM));
        let before = ask(&fleet, &asked);
        judge(&fleet, &agent, &before, &mut tally);

        // Without the entries that were named, whoever needed them is cut; the others name other ones.
        let named: BTreeSet<(String, String)> = before.iter().filter_map(Case::entry).collect();
        assert!(named.len() >= 50, "{}", named.len());
        let gone: BTreeSet<String> =
            named.iter().map(|(object, field)| fleet.written(object, field)).collect();
        agent.enforces(|| fleet.remove(&named)).unwrap();
        let after = ask(&fleet, &asked);
        judge(&fleet, &agent, &after, &mut tally);
        let was_named = before.iter().zip(&after).filter(|(case, _)| case.entry().is_some());
        let cut = was_named.filter(|(_, case)| case.verdict == "denied").count();
        assert!(cut >= 100, "{cut} of {} entries and {} ranges", named.len(), gone.len());
        tally.cut += cut;
    }
    println!("{tally:#?}");
    tally.assert_shares();
}

/// Sends what was asked about, those of one answer at a time, so that each counter shows whose packets moved
/// it.
fn judge(fleet: &Fleet, agent: &enforcer_tests::agent::Agent, cases: &[Case], tally: &mut Tally) {
    for case in cases {
        fleet.assert_range(case);
        tally.add(case);
    }
    let mut groups: BTreeMap<_, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        groups.entry(case.group(fleet)).or_default().push(case);
    }
    let mut wire = Wire::open(fleet);
    for (what, group) in groups {
        wire.send(agent, &group, &what);
        tally.groups += 1;
    }
    tally.packets += wire.sent();
}

/// What was asked, by what was answered.
#[derive(Debug, Default)]
struct Tally {
    to: BTreeMap<String, usize>,
    from: BTreeMap<String, usize>,
    reasons: BTreeMap<String, usize>,
    kinds: BTreeSet<String>,
    v6: usize,
    udp: usize,
    on_pods: usize,
    ranges: usize,
    groups: usize,
    packets: u64,
    cut: usize,
}

impl Tally {
    fn add(&mut self, case: &Case) {
        let Case { asked, verdict, reason, kind, range, .. } = case;
        let of_direction = if asked.egress { &mut self.from } else { &mut self.to };
        *of_direction.entry(verdict.clone()).or_default() += 1;
        *self.reasons.entry(reason.clone()).or_default() += 1;
        self.kinds.extend(kind.clone());
        self.v6 += usize::from(asked.to.is_ipv6());
        self.udp += usize::from(asked.udp);
        self.on_pods += usize::from(case.side == "pod" && !asked.egress);
        self.ranges += usize::from(range.is_some());
    }

    /// A share that is nothing would show nothing.
    fn assert_shares(&self) {
        let to: usize = self.to.values().sum();
        let from: usize = self.from.values().sum();
        assert!(to + from >= 6_000, "{to} and {from}");
        // In a thousand.
        let at_least = |of: &BTreeMap<String, usize>, what: &str, share: usize| {
            let (all, some) = (of.values().sum::<usize>(), of.get(what).copied().unwrap_or(0));
            assert!(some * 1000 >= all * share, "{some} of {all} are {what}");
        };
        for (verdict, share) in [
            ("allowed", 250),
            ("denied", 200),
            ("unguarded", 50),
            ("handshake", 20),
            ("would-deny", 30),
        ] {
            at_least(&self.to, verdict, share);
        }
        for (verdict, share) in [("allowed", 200), ("denied", 150), ("would-deny", 100)] {
            at_least(&self.from, verdict, share);
        }
        let reasons = [
            ("listed", 100),
            ("not_listed", 150),
            ("exempt", 40),
            ("trusted_proxy", 10),
            ("probe", 20),
            ("own_pod", 2),
            ("peer", 30),
            ("not_peer", 40),
        ];
        for (reason, share) in reasons {
            at_least(&self.reasons, reason, share);
        }
        assert!(self.v6 * 3 >= to + from, "{} of IPv6", self.v6);
        assert!(self.udp * 50 >= to + from, "{} over UDP", self.udp);
        assert!(self.on_pods * 20 >= to, "{} from pods", self.on_pods);
        let kinds = [
            "front-load-balancer",
            "front-load-balancer-node-port",
            "api-server-node-port",
            "konnectivity-node-port",
            "openvpn-node-port",
            "service-address",
            "pod",
            "shared-proxy",
            "shared-proxy-node-port",
            "shared-proxy-pod",
        ];
        for kind in kinds {
            assert!(self.kinds.contains(kind), "no frontend of kind {kind}: {:?}", self.kinds);
        }
    }
}
