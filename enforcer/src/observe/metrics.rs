//! Metrics in OpenMetrics text, read from the maps when they are scraped.
//!
//! Labels are bounded: per cluster and direction only allowed, denied and would-be denied, reasons for the
//! node as a whole. A series that is zero is left out where there is one for each cluster, reason or table.

use std::{fmt, path::Path, sync::Arc, time::SystemTime};

use enforcer_ebpf::verdict::Reason;
use enforcer_policy::{
    image::{Counted, Direction},
    plan::Hook,
    problem::ProblemKind,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text::encode},
    metrics::{
        MetricType,
        counter::ConstCounter,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::{
    agent::Status,
    chain::chain,
    kernel::{ClusterCounters, KernelError, Look, Place, Suppressed},
};

/// Reads the counters of the kernel.
#[derive(Clone, Debug)]
pub struct Metrics {
    kernel: Arc<Pinned>,
    changes: Histogram,
}

/// What is read at every scrape.
#[derive(Debug)]
struct Pinned {
    look: Look,
    suppressed: Suppressed,
}

impl Metrics {
    /// Metrics of what is pinned below this folder.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        let kernel = Pinned { look: Look::open(bpffs)?, suppressed: Suppressed::open(bpffs)? };
        // 1 ms to 8 s.
        let changes = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        Ok(Self { kernel: Arc::new(kernel), changes })
    }

    /// Where to note how many seconds each applied change took.
    #[must_use]
    pub fn change_durations(&self) -> Histogram {
        self.changes.clone()
    }

    /// The text of one scrape.
    pub fn encode(&self, status: &Arc<Status>) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("enforcer");
        registry.register(
            "build",
            "Version of the agent",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_with_unit(
            "change_duration",
            "From changed objects to the kernel, for every change that was applied",
            Unit::Seconds,
            self.changes.clone(),
        );
        registry.register_collector(Box::new(Scrape {
            kernel: Arc::clone(&self.kernel),
            status: Arc::clone(status),
        }));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// One scrape.
#[derive(Debug)]
struct Scrape {
    kernel: Arc<Pinned>,
    status: Arc<Status>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.clusters(&mut encoder)?;
        self.reasons(&mut encoder)?;
        self.fill(&mut encoder)?;
        self.state(&mut encoder)?;
        self.size(&mut encoder)?;
        self.freshness(&mut encoder)
    }
}

impl Scrape {
    fn clusters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.kernel.look.counters();
        let slots = self.status.report.counters.iter();
        let clusters: Vec<_> = slots
            .map(|(counted, slot)| Ok((counted, counters.cluster(*slot).map_err(failed)?)))
            .collect::<Result<_, fmt::Error>>()?;
        let mut family = |name, help, unit: Option<&Unit>, value: fn(&_) -> [u64; 3]| {
            let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
            for (Counted { cluster, direction }, counters) in &clusters {
                let verdicts = ["allowed", "denied", "would_deny"];
                for (verdict, count) in verdicts.into_iter().zip(value(counters)) {
                    if count == 0 {
                        continue;
                    }
                    let labels = [
                        ("cluster", cluster.0.as_str()),
                        ("direction", direction.name()),
                        ("verdict", verdict),
                    ];
                    ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
                }
            }
            Ok::<_, fmt::Error>(())
        };
        family(
            "packets",
            "Packets to guarded frontends, and of gated pods",
            None,
            |c: &ClusterCounters| [c.allowed_packets, c.denied_packets, c.would_deny_packets],
        )?;
        family(
            "traffic",
            "Bytes to guarded frontends, and of gated pods",
            Some(&Unit::Bytes),
            |c| [c.allowed_bytes, c.denied_bytes, 0],
        )
    }

    fn reasons(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "verdicts",
            "Packets to guarded frontends, and of gated pods, by reason, on this node",
            None,
            MetricType::Counter,
        )?;
        for reason in Reason::ALL {
            // What a cluster's list admits is in the cluster's own counters.
            if matches!(reason, Reason::Unguarded | Reason::Listed) {
                continue;
            }
            let count = self.kernel.look.counters().reason(reason).map_err(failed)?;
            if count > 0 {
                let direction = if reason.is_of_gated_pods() { "egress" } else { "ingress" };
                let labels = [("direction", direction), ("reason", reason.name())];
                ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        let suppressed = self.kernel.suppressed.ever().map_err(failed)?;
        let metric = ConstCounter::new(suppressed);
        metric.encode(encoder.encode_descriptor(
            "drop_events_suppressed",
            "Denied packets that `enforcer debug drops` does not show, since they were too many",
            None,
            MetricType::Counter,
        )?)
    }

    fn fill(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let unit = Unit::Other("ratio".to_owned());
        let mut metric = encoder.encode_descriptor(
            "map_fill",
            "How full the tables of the image in force are, from 0 to 1",
            Some(&unit),
            MetricType::Gauge,
        )?;
        for fill in self.kernel.look.fill() {
            if fill.used > 0 {
                let labels = [("table", fill.table)];
                ConstGauge::new(fill.ratio()).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn state(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Status { report, source_stale_since: _, observed } = &*self.status;
        let is_hidden = |kind: &ProblemKind| matches!(kind, ProblemKind::ClientsHidden);
        let hidden = observed.iter().filter(|problem| is_hidden(&problem.kind)).count();
        let mut gauge = gauges(encoder);
        gauge("audit_mode", "1 in audit mode: nothing is dropped", number(report.audits.into()))?;
        gauge("interfaces_guarded", "Interfaces with the program", number(report.guarded.len()))?;
        gauge(
            "interfaces_unguarded",
            "Interfaces that should have it and have not",
            number(report.unguarded.len()),
        )?;
        gauge(
            "interfaces_drifted",
            "Guarded interfaces where it is gone, or others see packets first",
            number(self.drifted()),
        )?;
        gauge("problems", "Things that are wrong with the objects", number(report.problems.len()))?;
        gauge(
            "enforced",
            "1 if what the objects say is enforced on every interface",
            number(report.is_enforced().into()),
        )?;
        gauge(
            "hidden_client_ports",
            "Ports of clusters whose recent sources are nearly all of nodes or load balancers",
            number(hidden),
        )?;
        gauge(
            "denied_probe_subnets",
            "Subnets whose denied connections look like health checks",
            number(observed.len() - hidden),
        )?;
        drop(gauge);
        let Some(enforced) = report.enforced else { return Ok(()) };
        let revisions =
            Info::new([("enforced", enforced.to_string()), ("wanted", report.wanted.to_string())]);
        revisions.encode(encoder.encode_descriptor(
            "revision",
            "Revision of the image in force, and of what the objects say",
            None,
            MetricType::Info,
        )?)
    }

    /// Guarded interfaces on which it is not so.
    fn drifted(&self) -> usize {
        let places = match self.kernel.look.places() {
            Ok(places) => places,
            Err(error) => {
                tracing::warn!(error = chain(&error), "interfaces cannot be read");
                return 0;
            }
        };
        let is_first = |index| match places.get(&(index, Hook::Ingress)) {
            Some(Place::Filter | Place::Link { position: 1, .. }) => true,
            Some(Place::Link { .. }) | None => false,
        };
        let guarded = self.status.report.guarded.iter();
        guarded.filter(|interface| !is_first(interface.index)).count()
    }

    fn size(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let report = &self.status.report;
        let of = |direction| {
            let counted = report.counters.iter().map(|(counted, _)| counted);
            number(counted.filter(|counted| counted.direction == direction).count())
        };
        let mut gauge = gauges(encoder);
        gauge("guarded_clusters", "Clusters with a restricted frontend", of(Direction::Ingress))?;
        gauge(
            "gated_clusters",
            "Clusters with a pod on this node whose connections are restricted",
            of(Direction::Egress),
        )?;
        gauge("audited_clusters", "Clusters in audit mode", number(report.size.audited))?;
        gauge("guarded_frontends", "Restricted frontends", number(report.frontends))?;
        gauge("ranges", "Ranges in the lists of Seed and Clusters", number(report.size.ranges))?;
        gauge("egress_peers", "Peers of clusters with gated egress", number(report.size.peers))
    }

    fn freshness(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Status { report, source_stale_since, observed: _ } = &*self.status;
        let mut seconds = |name, help, value: f64| {
            let metric = ConstGauge::new(value);
            let unit = Some(&Unit::Seconds);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        seconds(
            "last_change_duration",
            "From the objects to the kernel, last time",
            report.took.as_secs_f64(),
        )?;
        let age = source_stale_since.and_then(|since| SystemTime::now().duration_since(since).ok());
        seconds(
            "source_age",
            "For how long the source has not been readable; 0 while it is",
            age.unwrap_or_default().as_secs_f64(),
        )?;
        if let Some(since) = source_stale_since {
            let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            seconds(
                "source_stale_since",
                "When the source was lost, Unix time",
                since.as_secs_f64(),
            )?;
        }
        Ok(())
    }
}

/// Writes gauges without a unit.
fn gauges<'a, 'b>(
    encoder: &'a mut DescriptorEncoder<'b>,
) -> impl FnMut(&str, &str, f64) -> fmt::Result + use<'a, 'b> {
    |name, help, value| {
        let metric = ConstGauge::new(value);
        metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
    }
}

fn number(number: usize) -> f64 {
    number as f64
}

fn failed(error: KernelError) -> fmt::Error {
    tracing::warn!(error = chain(&error), "counters cannot be read");
    fmt::Error
}
