//! What an administrator does with kubectl: CRDs, manifests, tokens, kubeconfigs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::client::Client;
use super::credentials::ADMIN;
use super::{ControlPlane, REAL_CRDS};
use crate::exec;

/// The kinds of KKP that the agent reads, as their CRDs are named.
const CRDS: [&str; 3] = ["clusters", "clustertemplates", "seeds"];
const LIMIT: Duration = Duration::from_secs(120);

/// The namespace of deploy/, and the ServiceAccount of the agents in it.
pub const NAMESPACE: &str = "enforcer-system";
/// The name of what deploy/ makes, see [`NAMESPACE`].
pub const NAME: &str = "enforcer";

fn deploy(folder: &str) -> String {
    format!("{}/../deploy/{folder}", env!("CARGO_MANIFEST_DIR"))
}

impl ControlPlane {
    /// Runs kubectl as an administrator; its standard output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, "")
    }

    /// The same with `input` for `-f -`.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let Output { status, stdout, stderr } = self.kubectl_as(ADMIN, arguments, input)?;
        if !status.success() {
            let complaint = String::from_utf8_lossy(&stderr);
            bail!("kubectl {} failed: {}", arguments.join(" "), complaint.trim_end());
        }
        String::from_utf8(stdout).context("kubectl printed no text")
    }

    /// Runs kubectl with any token, whatever it comes to.
    pub fn kubectl_as(&self, token: &str, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = self.ns.command(self.program("kubectl"));
        command.env_clear().env("HOME", self.scratch.path().join("home"));
        command.args(["--server", &self.url(), "--token", token]);
        command.arg("--certificate-authority").arg(self.authority()).args(arguments);
        exec::output(command, input, LIMIT)
    }

    /// A client with an administrator's rights.
    pub fn client(&self) -> Result<Client> {
        self.client_as(ADMIN)
    }

    /// A client with any token.
    pub fn client_as(&self, token: &str) -> Result<Client> {
        let config = serde_json::from_value(self.config(token)).context("not a kubeconfig")?;
        Client::connect(&self.ns, config)
    }

    /// Creates or replaces objects as an administrator, see [`Client::apply`].
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        self.client()?.apply(objects)
    }

    /// Installs the CRDs of the kinds that the agent reads: KKP's own, where [`REAL_CRDS`] names
    /// them, else narrow ones of this project.
    pub fn install_crds(&self) -> Result<()> {
        let real = std::env::var_os(REAL_CRDS).map(PathBuf::from);
        let narrow = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/dev/crds");
        let folder = real.unwrap_or(narrow);
        let mut files = String::new();
        for plural in CRDS {
            let path = folder.join(format!("kubermatic.k8c.io_{plural}.yaml"));
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            files += &format!("---\n{text}\n");
        }
        // The real ones are too long for the annotation of a client-side apply.
        self.kubectl_with(&["apply", "--server-side", "-f", "-"], &files)?;
        let names = CRDS.map(|plural| format!("crd/{plural}.kubermatic.k8c.io"));
        let [a, b, c] = names.each_ref().map(String::as_str);
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", a, b, c])?;
        Ok(())
    }

    /// Renders a folder of deploy/, such as `base`, without asking the API server.
    pub fn render(&self, folder: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["kustomize", &deploy(folder)])?;
        serde_saphyr::from_multiple(&text).context("kustomize prints no YAML")
    }

    /// Applies a folder of deploy/; a field that its kind does not have is an error.
    pub fn deploy(&self, folder: &str) -> Result<()> {
        let how = ["apply", "--server-side", "--validate=strict", "-k"];
        self.kubectl(&[&how[..], &[&deploy(folder)]].concat()).map(drop)
    }

    /// A token of a ServiceAccount, as a kubelet would ask for.
    pub fn token(&self, namespace: &str, service_account: &str) -> Result<String> {
        let token =
            self.kubectl(&["create", "token", service_account, "--namespace", namespace])?;
        Ok(token.trim().to_owned())
    }

    /// Writes a kubeconfig for a token; `name` is the file's. Leads to the present [`Self::url`].
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.scratch.path().join("kubeconfigs").join(name);
        fs::write(&path, self.config(token).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// A kubeconfig of an administrator.
    pub fn admin(&self) -> Result<PathBuf> {
        self.kubeconfig("admin", ADMIN)
    }

    fn config(&self, token: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "seed", "cluster": {
                "server": self.url(),
                "certificate-authority": self.authority(),
            }}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "seed", "context": {"cluster": "seed", "user": "user"}}],
            "current-context": "seed",
        })
    }
}
