//! The agent: reads Cluster and Seed objects and makes the kernel of one seed node enforce them.
//!
//! Reading order is the way of one Cluster object: [`source`] (objects to a snapshot), then
//! `enforcer_policy` (snapshot to image and plan), [`reconcile`] (the way as a whole), [`kernel`]
//! (steps to maps and links). [`node`] says which interfaces and addresses there are, [`names`] what hosts
//! in URLs have, [`observe`] what others see, [`agent`] wires all of it. [`debug`] says afterwards what is
//! enforced and why.

pub mod agent;
pub mod args;
pub mod chain;
pub mod debug;
mod fault;
pub mod kernel;
pub mod memory;
pub mod names;
mod netlink;
pub mod node;
pub mod observe;
mod privilege;
pub mod reconcile;
pub mod source;
pub mod state;
