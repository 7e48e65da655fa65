//! What an operator asks about: a seed with clusters `c1` and `c2`, and `enforcer debug` on its node.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, Answered, Installation};
use crate::stage::Stage;

/// The list of `c1`: the last entry is invalid.
pub const LISTED: &[&str] = &["198.51.100.0/24", "2001:db8:51::/64", "nonsense"];

/// Cluster `c1` with a list of which one entry is invalid, cluster `c2` without any.
#[derive(Debug)]
pub struct Scene {
    /// The seed.
    pub stage: Stage,
    /// Where its agents run; they read the stage's manifests.
    pub installation: Installation,
}

impl Scene {
    /// Sets it up, without an agent.
    pub fn new() -> Result<Scene> {
        let mut stage = Stage::customary()?;
        stage.add_tenant("c2", 2)?;
        stage.cluster = stage.cluster.allow(LISTED);
        stage.publish()?;
        let installation = stage.installation()?;
        Ok(Scene { stage, installation })
    }

    /// Runs `enforcer debug` to its end.
    pub fn ask(&self, arguments: &[&str]) -> Result<Answered> {
        self.installation.debug(arguments)
    }

    /// The text of an answer, and its JSON, which come to the same exit code and complain of nothing.
    pub fn both(&self, arguments: &[&str]) -> Result<(Answered, Value)> {
        let text = self.ask(arguments)?;
        let json = self.ask(&[arguments, &["--output", "json"]].concat())?;
        ensure!(text.code == json.code, "{:?}: {} {}", text.code, text.error, json.error);
        ensure!(text.error.is_empty() && json.error.is_empty(), "{} {}", text.error, json.error);
        Ok((text, json.json()?))
    }

    /// Starts an agent and waits until it is ready.
    pub fn start(&self) -> Result<Agent> {
        self.installation.start()
    }
}
