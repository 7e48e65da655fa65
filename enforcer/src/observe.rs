//! What others see of the agent: health, readiness and metrics over HTTP; in the seed's API, where
//! that is the source, this node's Lease ([`lease`]) and Events on Clusters ([`events`]) and on this
//! machine's Node ([`company`]).
//!
//! Reads the latest [`Report`](crate::reconcile::Report) and the counters in the kernel when it is
//! asked; keeps nothing of its own.

mod account;
pub mod company;
pub mod drops;
pub mod events;
pub mod lease;
mod metrics;
pub mod socket;
pub mod sources;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

pub use account::{
    Account, AccountedInterface, Agent, InterfaceState, keep as keep_account, side as side_name,
};
pub use metrics::Metrics;

use crate::agent::Status;

/// Serves until it is cancelled.
pub async fn serve(
    listener: TcpListener,
    status: watch::Receiver<Arc<Status>>,
    metrics: Metrics,
    cancelled: CancellationToken,
) -> std::io::Result<()> {
    let shared = Arc::new(Shared { status, metrics });
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(shared);
    axum::serve(listener, router).with_graceful_shutdown(cancelled.cancelled_owned()).await
}

/// Binds the address of `--listen`.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

struct Shared {
    status: watch::Receiver<Arc<Status>>,
    metrics: Metrics,
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let status = shared.status.borrow().clone();
    // What is stale is enforced all the same: a pod that is not ready would help nobody.
    let staleness = status.staleness().map(|text| text + "\n").unwrap_or_default();
    match status.not_ready() {
        reasons if reasons.is_empty() => format!("ok\n{staleness}").into_response(),
        reasons => {
            let text = format!("{}\n{staleness}", reasons.join("\n"));
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    let status = shared.status.borrow().clone();
    match shared.metrics.encode(&status) {
        Ok(text) => {
            let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, form)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
