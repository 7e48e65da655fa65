//! A gated API server's pod on the wire: whom it reaches, what it answers, what it cannot forge, and when
//! all that begins and ends. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

mod first;
mod flood;
mod forged;
mod gate;
mod peers;
mod reject;
mod replies;
