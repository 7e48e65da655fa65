//! The harness of the enforcer's tests and demo: a seed of real network namespaces on one machine.
//!
//! Needs root. Everything it makes is named after its process and goes when the value that stands
//! for it is dropped, when a test panics, on Ctrl-C, or at the latest when the next run starts.
//!
//! A tour, from the whole to the parts:
//!
//! 1. [`stage`] sets up everything at once: [`stage::Stage::customary`] is a seed with one user
//!    cluster whose API server answers on every frontend, as long as nobody filters.
//! 2. [`topology`] is the network below it: clients, a router, seed nodes, pods, with fixed
//!    [`addresses`] and kube-proxy's rules from [`nat`]. A [`topology::Plan`] says what to build;
//!    the built [`topology::Network`] takes more clients, pods, nodes and services at any time.
//! 3. [`seed`] describes user clusters and seeds as KKP sees them and [`kube`] the services, pods
//!    and nodes below; one description gives manifests, NAT rules and the list of frontends.
//!    [`entrances`] opens every other kind of way in, [`gated`] has all that a gated API server may and may not
//!    connect to. [`manifests`] is the folder that the agent watches, [`yaml`] how objects are written there.
//! 4. [`agent`] runs the real agent on a node: an [`agent::Installation`] keeps pins and state
//!    while agents come and go; [`http`] reads its health and metrics. A [`scene::Scene`] is what an
//!    operator asks about.
//! 5. [`talk`] asks what a client gets: [`talk::connect`] tells answered from refused from silent,
//!    [`talk::Conversation`] holds a connection open. [`survey`] asks many clients at many frontends
//!    at once. [`listen`] has the servers on the other side, which count what reached them, and
//!    [`counted`] is what the kernel counted meanwhile.
//! 6. [`traffic`] and [`pairs`] keep going while something happens to the agent:
//!    [`traffic::Traffic`] connects again and again, a [`pairs::PairStream`] sends tens of
//!    thousands of numbered SYNs a second and knows of each whether it arrived. An
//!    [`onlooker::Onlooker`] is somebody else's program behind ours.
//!    [`faults`] is both while something breaks, and a line of the table that the tier `faults` prints.
//! 7. [`packets`] makes any packet by hand and reads any back, [`raw`] sends and catches them;
//!    [`shapes`] has every shape that a stranger may give a segment.
//! 8. [`control_plane`] is a real API server for the nodes of a topology, or by itself;
//!    [`watched`] is a stage whose agents read it with the rights that `deploy/base` gives them.
//!    [`container`] runs the image on a node.
//! 9. [`floor`] says what a packet costs a program; [`netns`] is one network namespace, [`exec`] one command, [`cleanup`] the promise above,
//!    [`slow`] what differs in emulated virtual machines.
//!
//! ```no_run
//! use std::time::Duration;
//! use enforcer_tests::{stage::Stage, talk::{Outcome, connect}};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut stage = Stage::customary()?;
//! let installation = stage.installation()?;
//! let agent = installation.start()?;
//! stage.cluster = stage.cluster.allow(&["198.51.100.0/24"]);
//! agent.enforces(|| stage.publish())?;
//! let unlisted = &stage.network.host("unlisted").ns;
//! let vip = stage.frontend("VIP", false);
//! assert_eq!(connect(unlisted, None, vip, Duration::from_millis(300)), Outcome::TimedOut);
//! agent.terminate()?;
//! # Ok(())
//! # }
//! ```

pub mod addresses;
pub mod agent;
mod arrivals;
pub mod cleanup;
pub mod container;
pub mod control_plane;
pub mod counted;
pub mod entrances;
pub mod exec;
pub mod faults;
pub mod fleet;
pub mod floor;
pub mod gated;
pub mod http;
pub mod kube;
pub mod latency;
mod link;
pub mod listen;
pub mod manifests;
pub mod nat;
pub mod netns;
pub mod onlooker;
pub mod packets;
pub mod pairs;
pub mod raw;
pub mod scene;
pub mod seed;
mod seen;
pub mod shapes;
pub mod slow;
pub mod stage;
pub mod survey;
pub mod talk;
pub mod topology;
pub mod traffic;
pub mod watched;
pub mod yaml;
