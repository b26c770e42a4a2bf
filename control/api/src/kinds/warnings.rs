//! What is accepted and better not used, in upstream's words (`pkg/api/*/warnings.go`): for `Warning` headers.

use serde_json::Value;

use crate::json::Json;
use crate::path::Path;

/// Labels of nodes under their old names: since when, and what they are called.
const LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Sources of volumes that do nothing any more.
const SOURCES: [(&str, &str); 9] = [
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Of a Pod.
pub(super) fn pod(pod: &Value) -> Vec<String> {
    let mut told = Vec::new();
    of_template(pod, None, &mut told);
    told
}

/// Of a workload, whose template is in its spec.
pub(super) fn workload(workload: &Value) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(template) = workload.at(&["spec", "template"]) {
        of_template(template, Some(&Path::new("spec.template")), &mut told);
    }
    told
}

/// Of a PersistentVolume.
pub(super) fn volume(volume: &Value) -> Vec<String> {
    let mut told = Vec::new();
    let spec = Path::new("spec");
    beta_class(volume, &mut told);
    if volume.text(&["spec", "persistentVolumeReclaimPolicy"]) == "Recycle" {
        told.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    sources(volume.at(&["spec"]).unwrap_or(&Value::Null), &spec, &mut told);
    let affinity = spec.child("nodeAffinity");
    let required = affinity.child("required");
    let terms = volume.at(&["spec", "nodeAffinity", "required"]).unwrap_or(&Value::Null);
    node_terms(terms, &required, &mut told);
    told
}

/// Of a PersistentVolumeClaim.
pub(super) fn claim(claim: &Value) -> Vec<String> {
    let mut told = Vec::new();
    beta_class(claim, &mut told);
    told
}

fn beta_class(object: &Value, told: &mut Vec<String>) {
    if object.has(&["metadata", "annotations", BETA_CLASS]) {
        told.push(format!(
            "metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
}

fn of_template(template: &Value, at: Option<&Path<'_>>, told: &mut Vec<String>) {
    let (metadata, spec_at) = match at {
        Some(at) => (at.child("metadata"), at.child("spec")),
        None => (Path::new("metadata"), Path::new("spec")),
    };
    let spec = template.at(&["spec"]).unwrap_or(&Value::Null);
    for (key, _) in spec.pairs(&["nodeSelector"]) {
        if let Some((_, since, name)) = LABELS.iter().find(|(old, ..)| *old == key) {
            let at = spec_at.child("nodeSelector");
            let at = at.key(key);
            told.push(format!("{at}: deprecated since {since}; use \"{name}\" instead"));
        }
    }
    let affinity = spec_at.child("affinity");
    let affinity = affinity.child("nodeAffinity");
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = spec.at(&["affinity", "nodeAffinity", required]).unwrap_or(&Value::Null);
    node_terms(terms, &affinity.child(required), told);
    for (key, _) in template.pairs(&["metadata", "annotations"]) {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            let at = metadata.child("annotations");
            let at = at.key(key);
            told.push(format!(
                "{at}: non-functional in v1.27+; use the \"seccompProfile\" field instead"
            ));
        }
    }
    let list = spec_at.child("volumes");
    for (i, volume) in spec.list(&["volumes"]).iter().enumerate() {
        sources(volume, &list.index(i), told);
    }
    if spec.int(&["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        let at = spec_at.child("terminationGracePeriodSeconds");
        told.push(format!(
            "{at}: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for field in ["initContainers", "containers"] {
        let list = spec_at.child(field);
        for (i, container) in spec.list(&[field]).iter().enumerate() {
            environment(container, &list.index(i), told);
        }
    }
}

fn environment(container: &Value, at: &Path<'_>, told: &mut Vec<String>) {
    let variables = container.list(&["env"]);
    let at = at.child("env");
    for (i, variable) in variables.iter().enumerate() {
        let name = variable.text(&["name"]);
        if variables[..i].iter().any(|earlier| earlier.text(&["name"]) == name) {
            told.push(format!(
                "{}: hides previous definition of \"{name}\", which may be dropped when using apply",
                at.index(i)
            ));
        }
    }
}

fn sources(volume: &Value, at: &Path<'_>, told: &mut Vec<String>) {
    for (source, what) in SOURCES.iter().filter(|(source, _)| volume.has(&[source])) {
        told.push(format!("{}: {what}", at.child(source)));
    }
}

fn node_terms(selector: &Value, at: &Path<'_>, told: &mut Vec<String>) {
    let list = at.child("nodeSelectorTerms");
    for (i, term) in selector.list(&["nodeSelectorTerms"]).iter().enumerate() {
        let at = list.index(i);
        let expressions = at.child("matchExpressions");
        for (j, expression) in term.list(&["matchExpressions"]).iter().enumerate() {
            let key = expression.text(&["key"]);
            if let Some((_, since, name)) = LABELS.iter().find(|(old, ..)| *old == key) {
                let at = expressions.index(j);
                let at = at.child("key");
                told.push(format!(
                    "{at}: {key} is deprecated since {since}; use \"{name}\" instead"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_old_is_named() {
        let template = json!({
            "metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "x"}},
            "spec": {
                "nodeSelector": {"beta.kubernetes.io/os": "linux", "kubernetes.io/os": "linux"},
                "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "gitRepo": {}}],
                "containers": [{"env": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}],
                "terminationGracePeriodSeconds": -1,
            },
        });
        let told = [
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
            "spec.volumes[1].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
        ];
        assert_eq!(pod(&template), told);
        let in_template = told.map(|text| format!("spec.template.{text}"));
        assert_eq!(workload(&json!({"spec": {"template": template}})), in_template);
        assert_eq!(
            volume(&json!({
                "metadata": {"annotations": {BETA_CLASS: "c"}},
                "spec": {"persistentVolumeReclaimPolicy": "Recycle", "glusterfs": {}, "nodeAffinity": {"required": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "beta.kubernetes.io/arch"}]}]}}},
            })),
            [
                "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead",
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
                "spec.glusterfs: deprecated in v1.25, non-functional in v1.26+",
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead",
            ]
        );
    }
}
