//! What a Pod's containers want of images: which, with whose credentials, and run how.

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::Api;

use super::{Workers, names};
use crate::images::credentials::Keyring;
use crate::images::gc::InUse;
use crate::images::manifest::{Run, Words};
use crate::images::{PullPolicy, Wanted};
use crate::pod::{env, spec};

/// What the container wants of an image.
pub(super) fn wanted<'a>(container: &'a Container) -> Wanted<'a> {
    let first = |words: &'a Option<Vec<String>>| words.as_ref()?.first().map(String::as_str);
    Wanted {
        name: container.image.as_deref().unwrap_or_default(),
        policy: match container.image_pull_policy.as_deref() {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        },
        words: Words { command: first(&container.command), argument: first(&container.args) },
    }
}

/// The arguments: `command` stands in for the image's entrypoint and command, `args` for its command.
pub(super) fn arguments(
    container: &Container,
    environment: &[(String, String)],
    run: &Run,
) -> Vec<String> {
    let name = container.image.as_deref().unwrap_or_default();
    let commanded = container.command.as_ref().is_some_and(|c| !c.is_empty());
    if commanded || (run.entrypoint.is_empty() && run.cmd.is_empty()) {
        return env::arguments(container, environment, name);
    }
    let given = env::arguments(container, environment, name).split_off(1);
    let rest = if given.is_empty() { run.cmd.clone() } else { given };
    run.entrypoint.iter().cloned().chain(rest).collect()
}

/// The image's environment, but for what the container sets itself.
pub(super) fn environment(run: &Run, own: Vec<(String, String)>) -> Vec<(String, String)> {
    let theirs = run.env.iter().filter(|(name, _)| !own.iter().any(|(n, _)| n == name));
    theirs.cloned().collect::<Vec<_>>().into_iter().chain(own).collect()
}

impl Workers {
    /// The credentials that the Pod brings.
    pub(super) async fn keyring(&self, pod: &Pod) -> Keyring {
        let mut keyring = Keyring::default();
        let references = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten());
        let parts = &self.inner.parts;
        let api: Api<Secret> = Api::namespaced(parts.client.clone(), names(pod).0);
        let mut missing = Vec::new();
        for name in references.map(|reference| &reference.name).filter(|name| !name.is_empty()) {
            let added = match api.get(name).await {
                Ok(secret) => keyring.add(&secret).map_err(|e| e.to_string()),
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    missing.push(name.as_str());
                    continue;
                }
                Err(error) => Err(format!("secret \"{name}\": {error}")),
            };
            if let Err(why) = added {
                let message = format!("Unable to use image pull secret: {why}");
                parts.recorder.pod(pod, None, true, "FailedToRetrieveImagePullSecret", message);
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            parts.recorder.pod(pod, None, true, "FailedToRetrieveImagePullSecret", message);
        }
        keyring
    }

    /// Images that must stay: those of Pods that are not over.
    pub fn images_in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        for entry in self.table().pods.values().filter(|e| e.state.outcome().is_none()) {
            let pod = entry.pod.peek();
            let images = spec::containers(&pod).filter_map(|(_, c)| c.image.clone());
            in_use.names.extend(images);
            in_use.names.extend(spec::ephemeral(&pod).filter_map(|c| c.image));
            let digests = entry.state.containers.iter().map(|c| &c.image_digest);
            in_use.digests.extend(digests.filter(|d| !d.is_empty()).map(|d| d.to_string()));
        }
        in_use
    }
}

#[cfg(test)]
mod tests;
