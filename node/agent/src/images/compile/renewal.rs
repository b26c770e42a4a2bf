//! After the binary was upgraded: what is compiled is made anew, beside everything else, and what nobody can use any more goes.

use std::path::PathBuf;
use std::time::Duration;

use coracle_sandbox::{Client, Image};

use super::Compiler;

/// How often is looked whether hosts of an older program have ended.
const LOOK: Duration = Duration::from_secs(60);

impl Compiler {
    /// Does all of it; `in_use` are the digests that run, `hosts` says which hosts there are, `file` finds an image's file.
    pub async fn follow_upgrade(
        self,
        in_use: Vec<String>,
        hosts: impl Fn() -> Vec<Client>,
        file: impl Fn(&str) -> Option<Image>,
    ) {
        self.renew(&in_use, file).await;
        // Hosts outlive agents: one of an older program goes on with code of its own.
        loop {
            let mut foreign = false;
            for host in hosts() {
                foreign |= self.program_of(&host).await.is_some();
            }
            if !foreign {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.remove_dead().await;
    }

    /// The program of a host, if it is another than this: only that can make code which the host can use. None also where
    /// the host does not say.
    pub async fn program_of(&self, host: &Client) -> Option<PathBuf> {
        let info = host.info().await.ok()?;
        let other = !info.code.is_empty() && info.code != self.inner.command.names;
        // The path may lead to the new program by now, or nowhere; this is what runs.
        other.then(|| PathBuf::from(format!("/proc/{}/exe", info.pid)))
    }
}
