//! Whose turn it is to report. Pure: the Lease as it was read, and the time.
//!
//! A Lease counts as left when its holder has not renewed it for as long as it says, by the clock of
//! the one who looks: clocks of nodes differ.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

use super::{Identity, LEASE, problems::Id};

/// Annotation of the Lease: what is reported, separated by spaces.
const REPORTED: &str = "enforcer.k8c.io/reported";

/// Seconds after which a holder that does not renew has left.
const DURATION: i32 = 30;

/// When the Lease was seen to change.
#[derive(Debug, Default)]
pub(super) struct Observed {
    last: Option<(Option<MicroTime>, Instant)>,
}

/// What to do now.
#[derive(Debug)]
pub(super) enum Turn {
    /// There is no Lease: make this one and report.
    Make(Box<Lease>),
    /// Write this one in place of what was read, and report.
    Hold(Box<Lease>),
    /// Another agent reports.
    Follow(Box<Lease>),
}

/// Decides.
pub(super) fn turn(
    found: Option<Lease>,
    me: &Identity,
    observed: &mut Observed,
    now: Instant,
    clock: Timestamp,
) -> Turn {
    let Some(mut lease) = found else { return Turn::Make(Box::new(first(me, clock))) };
    let spec = lease.spec.get_or_insert_default();
    let renewed = spec.renew_time.clone();
    let since = match &observed.last {
        Some((last, since)) if *last == renewed => *since,
        Some(_) | None => now,
    };
    observed.last = Some((renewed, since));
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(DURATION));
    let is_left = now.duration_since(since) >= Duration::from_secs(seconds.unwrap_or_default());
    if holder != me.node && !holder.is_empty() && !is_left {
        return Turn::Follow(Box::new(lease));
    }
    if holder != me.node {
        spec.acquire_time = Some(MicroTime(clock));
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
    }
    spec.holder_identity = Some(me.node.clone());
    spec.lease_duration_seconds = Some(DURATION);
    spec.renew_time = Some(MicroTime(clock));
    Turn::Hold(Box::new(lease))
}

/// What the holders of a Lease have reported.
pub(super) fn reported(lease: &Lease) -> BTreeSet<Id> {
    let annotations = lease.metadata.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get(REPORTED));
    text.into_iter().flat_map(|text| text.split(' ')).filter_map(|id| id.parse().ok()).collect()
}

/// Writes down what is reported.
pub(super) fn write_down(lease: &mut Lease, told: &BTreeSet<Id>) {
    let text = told.iter().map(Id::to_string).collect::<Vec<_>>().join(" ");
    lease.metadata.annotations.get_or_insert_default().insert(REPORTED.to_owned(), text);
}

fn first(me: &Identity, clock: Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(LEASE.to_owned()),
            namespace: Some(me.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(me.node.clone()),
            lease_duration_seconds: Some(DURATION),
            acquire_time: Some(MicroTime(clock)),
            renew_time: Some(MicroTime(clock)),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(node: &str) -> Identity {
        Identity { namespace: "guard".to_owned(), node: node.to_owned() }
    }

    #[test]
    fn one_agent_reports_until_it_does_not_renew_any_more() {
        let (start, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let (mut first, mut second) = (Observed::default(), Observed::default());
        let Turn::Make(lease) = turn(None, &agent("n1"), &mut first, start, clock) else {
            panic!("nobody had it")
        };
        let at = |seconds| start + Duration::from_secs(seconds);
        let read = || Some((*lease).clone());
        let other = agent("n2");
        assert!(matches!(turn(read(), &other, &mut second, at(0), clock), Turn::Follow(_)));
        assert!(matches!(turn(read(), &other, &mut second, at(29), clock), Turn::Follow(_)));
        let later = clock + Duration::from_secs(5);
        let held = turn(read(), &agent("n1"), &mut first, at(29), later);
        let Turn::Hold(renewed) = held else { panic!("{held:?}") };
        let read = || Some((*renewed).clone());
        assert!(matches!(turn(read(), &other, &mut second, at(30), clock), Turn::Follow(_)));
        let taken = turn(read(), &other, &mut second, at(60), clock);
        let Turn::Hold(taken) = taken else { panic!("{taken:?}") };
        let spec = taken.spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("n2"));
        assert_eq!(spec.lease_transitions, Some(1));
    }

    #[test]
    fn the_next_holder_knows_what_was_reported() {
        let told: BTreeSet<Id> =
            ["c1/0a", "c2/0b", "/0c"].iter().map(|id| id.parse().unwrap()).collect();
        let mut lease = Lease::default();
        write_down(&mut lease, &told);
        assert_eq!(reported(&lease), told);
        write_down(&mut lease, &BTreeSet::new());
        assert_eq!(reported(&lease), BTreeSet::new());
    }
}
