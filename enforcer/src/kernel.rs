//! The kernel's side: maps, programs and links as they are, and the steps that change them.
//!
//! Input: [`Step`](enforcer_policy::plan::Step)s. Output: [`Observed`](enforcer_policy::plan::Observed)
//! state, read from the kernel at each call. Everything is pinned below one folder of a BPF file
//! system or held by the interface, so that it outlives the agent; nothing is decided here.

mod attach;
mod banks;
mod clsact;
mod counters;
mod dry_run;
mod execute;
mod features;
mod fill;
mod load;
mod look;
mod object;
mod pins;
mod query;
mod tcx;
mod told;

pub use attach::Attach;
pub use counters::{ClusterCounters, CounterTable};
pub use dry_run::{DryRun, Probe, Step};
pub use execute::Kernel;
pub use fill::{Fill, fill};
pub use look::{Look, Place};
pub use object::Layout;
pub use pins::Pins;
pub use told::{EventRing, RecentSources, Suppressed, address};

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

/// Detaches everything from this network namespace's interfaces, and removes every pin below
/// `bpffs`. Says how many of both there were.
pub fn clean(bpffs: &Path) -> Result<usize, KernelError> {
    Ok(pins::clean(bpffs)? + clsact::clean()?)
}

/// Makes sure that there is a BPF file system at `bpffs`, and that maps may have the memory that they need:
/// what may take more rights than what comes later.
pub fn mount(bpffs: &Path) -> Result<(), KernelError> {
    features::lock_memory();
    pins::mount(bpffs)
}

/// What went wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The BPF file system is not there and cannot be mounted.
    #[error("cannot use {path} as a BPF file system; mount one there (mount -t bpf bpf {path})")]
    BpfFs {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file operation on a pin failed.
    #[error("cannot {action} {path}")]
    Pin {
        /// What was tried.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another agent holds the pins.
    #[error("another enforcer runs on this node: it holds {path}")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A pinned map is not what this build expects.
    #[error("pinned map {path} has another layout than this build's; run `enforcer clean` first")]
    Layout {
        /// The pin.
        path: PathBuf,
    },
    /// Loading the object failed.
    #[error("cannot load the BPF object")]
    Load(#[source] Box<EbpfError>),
    /// The kernel is too old, or built without something.
    #[error(
        "this node's kernel, Linux {kernel}, has no {feature}, which came with Linux {since}; nothing is attached: \
         {remedy}"
    )]
    Lacks {
        /// What it lacks.
        feature: &'static str,
        /// The first Linux with it.
        since: &'static str,
        /// Its release.
        kernel: String,
        /// What to do.
        remedy: String,
        /// What it answered.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel's verifier does not let a program in.
    #[error(
        "the verifier of this node's kernel, Linux {kernel}, refuses program {name}: {complaint}"
    )]
    Verifier {
        /// Name of the program.
        name: String,
        /// The kernel's release.
        kernel: String,
        /// Its last sentence.
        complaint: String,
    },
    /// A program cannot be loaded, pinned or attached.
    #[error("cannot {action} program {name}")]
    Program {
        /// What was tried.
        action: &'static str,
        /// Name of the program, or of the interface it goes to.
        name: String,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// A map operation failed.
    #[error("cannot {action} map {name}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// Name of the map.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<MapError>,
    },
    /// A pinned link cannot be opened or read.
    #[error("cannot {action} the link of interface {index}")]
    Link {
        /// What was tried.
        action: &'static str,
        /// Interface number.
        index: u32,
        /// Why.
        #[source]
        source: Box<LinkError>,
    },
    /// Filters of interfaces cannot be listed or changed.
    #[error("cannot {action} filters of interface {index}")]
    Filter {
        /// What was tried.
        action: &'static str,
        /// Interface number, 0 for all.
        index: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Pinning an object failed.
    #[error("cannot pin {path}")]
    PinObject {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<PinError>,
    },
    /// An interface went away or changed its number while it was worked on.
    #[error("interface {name} (number {index}) is gone")]
    InterfaceGone {
        /// The name.
        name: String,
        /// The number.
        index: u32,
    },
    /// There is nothing to look at.
    #[error(
        "no maps of the enforcer below {path}: no agent of this version has run here since the machine \
         started, or its --bpffs is another one"
    )]
    NoMaps {
        /// The folder.
        path: PathBuf,
    },
    /// The pins may not be opened.
    #[error("the maps below {path} are for root alone: run this as root (CAP_BPF)")]
    Forbidden {
        /// The folder.
        path: PathBuf,
    },
    /// A map cannot be mapped into memory.
    #[error("cannot map an image into memory")]
    Mapping(#[source] io::Error),
}

impl KernelError {
    /// Whether the next look at the interfaces makes another try useful.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::InterfaceGone { .. } | Self::Link { .. } | Self::Filter { .. } => true,
            Self::BpfFs { .. }
            | Self::Pin { .. }
            | Self::Locked { .. }
            | Self::Layout { .. }
            | Self::Load(_)
            | Self::Lacks { .. }
            | Self::Verifier { .. }
            | Self::Program { .. }
            | Self::Map { .. }
            | Self::PinObject { .. }
            | Self::NoMaps { .. }
            | Self::Forbidden { .. }
            | Self::Mapping(_) => false,
        }
    }
}
