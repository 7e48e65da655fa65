//! The data path of the enforcer: packet bytes in, one [`Verdict`](decide::Verdict) out.
//!
//! The library is `no_std` and free of kernel helpers: the BPF program in `main.rs` and the tests on
//! the host run the same `parse`, `tables` and `decide`. Only `maps.rs` and `main.rs` know BPF.
//!
//! Reading order: [`abi`] (what the agent writes into the maps), [`parse`] (bytes to a flow),
//! [`tables`] (how the maps are searched), [`verdict`] (what there is to decide), [`decide`] (packets to
//! frontends), [`leave`] (packets of gated pods), [`mod@watch`] (connections that the node opens). [`bpf`]
//! keeps LLVM and the verifier from misunderstanding each other.
#![no_std]
// BPF assembly is unstable; the BPF targets are built with a nightly or RUSTC_BOOTSTRAP anyway.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod address;
pub mod bpf;
pub mod decide;
pub mod leave;
pub mod parse;
pub mod tables;
pub mod verdict;
pub mod watch;
