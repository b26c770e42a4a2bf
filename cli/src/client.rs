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
        Ok(self.connect().await?.0)
    }

    /// A client of the cluster, and what the kubeconfig says of it.
    pub(crate) async fn connect(&self) -> anyhow::Result<(kube::Client, kube::Config)> {
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
        let unusable = || format!("{} is not a usable kubeconfig", path.display());
        if let Err(error) = std::fs::File::open(&path) {
            bail!(
                "cannot read {}: {error}; run as its owner, or name another kubeconfig with --kubeconfig",
                path.display()
            );
        }
        let kubeconfig = Kubeconfig::read_from(&path).with_context(unusable)?;
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(unusable)?;
        let url = config.cluster_url.clone();
        let client = kube::Client::try_from(config.clone()).with_context(unusable)?;
        // Before anything is begun: what says no here says it to every request.
        match client.apiserver_version().await {
            Ok(_) => Ok((client, config)),
            Err(kube::Error::Api(status)) if status.code == 401 => bail!(
                "the cluster at {url} does not know the credentials in {}; is that another cluster's kubeconfig? Name this one's with --kubeconfig",
                path.display()
            ),
            // It answers; what is wrong, if anything, the request itself will tell.
            Err(kube::Error::Api(_)) => Ok((client, config)),
            Err(error) => bail!(
                "the cluster at {url}, of {}, does not answer: {}; is `coracle up` running? Start it, or name another cluster's kubeconfig with --kubeconfig",
                path.display(),
                root_cause(&error)
            ),
        }
    }
}

/// What lies at the bottom of an error: what the system said, without the layers above.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
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
