//! After the binary was upgraded: what is compiled is made anew, beside everything else, and what nobody can use any more goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_sandbox::{Client, CompiledImage, Image};

use super::Compiler;

/// How often is looked whether hosts of an older program have ended.
const LOOK: Duration = Duration::from_secs(60);

/// The program of a host, where it is another than this: only that can make code which the host can use.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// The program.
    pub program: PathBuf,
    /// By class of guests, how code is called that it can use.
    pub names: BTreeMap<String, String>,
}

impl Foreign {
    /// The code that it can use of an image, if there is some, of that class if one is given.
    pub(super) fn made(
        &self,
        dir: &Path,
        image: &Image,
        class: Option<&str>,
    ) -> Option<Arc<CompiledImage>> {
        let hex = image.digest.trim_start_matches("sha256:");
        let info = std::fs::read(dir.join(format!("{hex}.info"))).ok()?;
        let names = self.names.iter().filter(|(name, _)| class.is_none_or(|class| class == *name));
        let files = names.map(|(class, name)| (class.clone(), format!("{hex}-{name}.cwasm")));
        let code: BTreeMap<_, _> = files.filter(|(_, file)| dir.join(file).is_file()).collect();
        if code.is_empty() {
            return None;
        }
        let info = serde_json::from_slice(&info).ok()?;
        let made = CompiledImage { digest: image.digest.clone(), info, code, bytes: 0 };
        Some(Arc::new(made))
    }
}

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

    /// The program of a host, if it is another than this. None also where the host does not say.
    pub async fn program_of(&self, host: &Client) -> Option<Foreign> {
        let info = host.info().await.ok()?;
        let other = !info.code.is_empty() && info.code != self.inner.command.names;
        // The path may lead to the new program by now, or nowhere; this is what runs.
        let program = PathBuf::from(format!("/proc/{}/exe", info.pid));
        other.then_some(Foreign { program, names: info.code })
    }
}
