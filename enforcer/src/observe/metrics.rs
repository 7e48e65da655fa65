//! Metrics in OpenMetrics text, read from the maps when they are scraped.
//!
//! Labels are bounded: per cluster only allowed and denied, reasons for the node as a whole.

use std::{fmt, sync::Arc};

use enforcer_ebpf::verdict::Reason;
use enforcer_policy::image::{Counted, Direction};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

use crate::{agent::Status, chain::chain, kernel::CounterTable};

/// Reads the counters of the kernel.
#[derive(Clone, Debug)]
pub struct Metrics {
    counters: Arc<CounterTable>,
}

impl Metrics {
    /// Metrics over these counters.
    #[must_use]
    pub fn new(counters: CounterTable) -> Self {
        Self { counters: Arc::new(counters) }
    }

    /// The text of one scrape.
    pub fn encode(&self, status: &Arc<Status>) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("enforcer");
        registry.register(
            "build",
            "Version of the agent",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(Scrape {
            counters: Arc::clone(&self.counters),
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
    counters: Arc<CounterTable>,
    status: Arc<Status>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.clusters(&mut encoder)?;
        self.reasons(&mut encoder)?;
        self.state(&mut encoder)
    }
}

impl Scrape {
    fn clusters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let clusters: Vec<_> = self
            .status
            .report
            .counters
            .iter()
            .map(|(counted, slot)| Ok((counted, self.counters.cluster(*slot).map_err(failed)?)))
            .collect::<Result<_, fmt::Error>>()?;
        let mut family = |name, help, unit: Option<&Unit>, value: fn(&_) -> [u64; 3]| {
            let mut metric = encoder.encode_descriptor(
                name,
                help,
                unit,
                prometheus_client::metrics::MetricType::Counter,
            )?;
            for (Counted { cluster, direction }, counters) in &clusters {
                let verdicts = ["allowed", "denied", "would_deny"];
                for (verdict, count) in verdicts.into_iter().zip(value(counters)) {
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
            "Packets to guarded frontends",
            None,
            |c: &crate::kernel::ClusterCounters| {
                [c.allowed_packets, c.denied_packets, c.would_deny_packets]
            },
        )?;
        family("traffic", "Bytes to guarded frontends", Some(&Unit::Bytes), |c| {
            [c.allowed_bytes, c.denied_bytes, 0]
        })
    }

    fn reasons(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "verdicts",
            "Packets to guarded frontends by reason, on this node",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for reason in Reason::ALL {
            // What a cluster's list admits is in the cluster's own counters.
            if matches!(reason, Reason::Unguarded | Reason::Listed) {
                continue;
            }
            let count = self.counters.reason(reason).map_err(failed)?;
            let labels = [("reason", reason.name())];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn state(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Status { report, source_stale_since } = &*self.status;
        let mut gauge = |name, help, unit: Option<&Unit>, value: f64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        let count = |number: usize| number as f64;
        let guarded = report.counters.iter().map(|(counted, _)| counted);
        let guarded = guarded.filter(|counted| counted.direction == Direction::Ingress).count();
        gauge("guarded_clusters", "Clusters with a restricted frontend", None, count(guarded))?;
        gauge(
            "audit_mode",
            "1 while what nothing admits is counted as denied and let through",
            None,
            f64::from(u8::from(report.audits)),
        )?;
        gauge("guarded_frontends", "Restricted frontends", None, count(report.frontends))?;
        gauge(
            "interfaces_guarded",
            "Interfaces with the program",
            None,
            count(report.guarded.len()),
        )?;
        gauge(
            "interfaces_unguarded",
            "Interfaces that should have it and have not",
            None,
            count(report.unguarded.len()),
        )?;
        gauge(
            "problems",
            "Things that are wrong with the objects",
            None,
            count(report.problems.len()),
        )?;
        gauge(
            "enforced",
            "1 if what the objects say is enforced on every interface",
            None,
            f64::from(u8::from(report.is_enforced())),
        )?;
        gauge(
            "last_change_duration",
            "From the objects to the kernel, last time",
            Some(&Unit::Seconds),
            report.took.as_secs_f64(),
        )?;
        if let Some(since) = source_stale_since {
            let seconds = since.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            gauge(
                "source_stale_since",
                "When the source was lost, Unix time",
                Some(&Unit::Seconds),
                seconds.as_secs_f64(),
            )?;
        }
        Ok(())
    }
}

fn failed(error: crate::kernel::KernelError) -> fmt::Error {
    tracing::warn!(error = chain(&error), "counters cannot be read");
    fmt::Error
}
