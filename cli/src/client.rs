//! Finding the cluster: `--kubeconfig`, else `$KUBECONFIG`, else the admin's in the data folder.

use std::path::PathBuf;

use anyhow::{Context, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::folder;

/// Where a client command finds its cluster.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Connection {
    /// Kubeconfig of the cluster [default: $KUBECONFIG, else admin.kubeconfig in the data folder]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Data folder of the cluster
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Namespace to work in
    #[arg(long, short, default_value = "default")]
    pub namespace: String,
}

impl Connection {
    /// A client of the cluster.
    pub(crate) async fn client(&self) -> anyhow::Result<kube::Client> {
        let env = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
        let data = self.data.as_ref().map(|d| d.join("admin.kubeconfig"));
        let path = self.kubeconfig.clone().or(data).or(env);
        let path = path.unwrap_or_else(|| folder::default().join("admin.kubeconfig"));
        if !path.exists() {
            bail!(
                "no cluster found: there is no {}; start one with `coracle up`, or name its kubeconfig with --kubeconfig",
                path.display()
            );
        }
        let kubeconfig = Kubeconfig::read_from(&path)
            .with_context(|| format!("{} is not a usable kubeconfig", path.display()))?;
        from_kubeconfig(kubeconfig).await
    }
}

/// A client from a kubeconfig's current context.
pub(crate) async fn from_kubeconfig(kubeconfig: Kubeconfig) -> anyhow::Result<kube::Client> {
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// A client's error in one line that says what to do.
pub(crate) fn explain(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        kube::Error::HyperError(_) | kube::Error::Service(_) => {
            anyhow::anyhow!("the cluster does not answer ({error}); is `coracle up` running?")
        }
        other => other.into(),
    }
}
