//! Job.
//!
//! Its spec is also that of every CronJob's template: [`spec`] is shared.

pub(super) mod spec;
mod update;

use serde_json::Map;

use super::common::{
    AGE, NAME, container_cells, format_selector, object_age, status_and_labels, text, wide,
};
use super::*;
use crate::age::human_duration;
use crate::json::{Fields, Json, keep, object, object_or_new, set_default};
use crate::names;
use crate::path::Path;
use crate::selector::label_selector_matches;

/// `jobs.batch`.
pub static KIND: Kind = Kind {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    resource: "jobs.batch",
    categories: &["all"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    orphans_dependents: true,
    default,
    prepare,
    validate,
    validate_create,
    validate_update: update::job,
    warnings: warnings::workload,
    columns: &[
        NAME,
        text("Status", "Status of the job."),
        text("Completions", "How many of the pods that it takes have succeeded."),
        text("Duration", "Time required to complete the job."),
        AGE,
        wide("Containers", "Names of each container in the template."),
        wide("Images", "Images referenced by each container in the template."),
        wide("Selector", "Label selector for pods."),
    ],
    cells,
    fields: &[SelectableField {
        path: "status.successful",
        read: |o| {
            let count = crate::json::peek(o.json(), "status.succeeded");
            if count.is_empty() { "0".into() } else { count }
        },
    }],
    ..Kind::BASE
};

/// The labels that tell a Job's Pods, under today's names and under their old ones.
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];

fn default(job: &mut Value) {
    let Some(job) = job.as_object_mut() else { return };
    let Some(spec) = object(job, "spec") else { return };
    spec::default(spec);
    labels_of_template(job);
}

/// A Job without labels has those of its Pods.
fn labels_of_template(job: &mut Fields) {
    let Some(labels) = job.map(&["spec", "template", "metadata", "labels"]).cloned() else {
        return;
    };
    let metadata = object_or_new(job, "metadata");
    if let Some(metadata) = metadata
        && metadata.map(&["labels"]).is_none_or(Map::is_empty)
    {
        metadata.insert("labels".into(), labels.into());
    }
}

fn prepare(prepare: Prepare<'_>) {
    match prepare {
        Prepare::Create(new) => {
            let Some(new) = new.as_object_mut() else { return };
            new.remove("status");
            generate_selector(new);
            labels_of_template(new);
        }
        Prepare::Update { new, old } => {
            if let Some(new) = new.as_object_mut() {
                keep(new, old, "status");
            }
        }
        Prepare::Status { new, old } => status_and_labels(new, old),
    }
}

/// Unless the user chose a selector: one that only this Job can have, because it names its UID.
fn generate_selector(job: &mut Fields) {
    if job.flag(&["spec", "manualSelector"]) {
        return;
    }
    let name = job.text(&["metadata", "name"]).to_owned();
    let uid = job.text(&["metadata", "uid"]).to_owned();
    let Some(spec) = object(job, "spec") else { return };
    let labels = object_or_new(spec, "template")
        .and_then(|template| object_or_new(template, "metadata"))
        .and_then(|metadata| object_or_new(metadata, "labels"));
    if let Some(labels) = labels {
        // Somebody else's values are left for validation to refuse.
        for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
            for key in keys {
                set_default(labels, key, || value.as_str());
            }
        }
    }
    let matched = object_or_new(spec, "selector").and_then(|s| object_or_new(s, "matchLabels"));
    if let Some(matched) = matched {
        set_default(matched, UID_LABELS[0], || uid.as_str());
    }
}

fn validate(job: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    generated(job, &mut errors);
    let at = Path::new("spec");
    let spec = job.at(&["spec"]).unwrap_or(&Value::Null);
    spec::validate(spec, &at, &mut errors);
    let labels = spec.at(&["template", "metadata", "labels"]);
    match spec.at(&["selector"]) {
        None => errors.push(FieldError::required(at.child("selector"), "")),
        Some(selector) => {
            workload::validate_selector(selector, &at.child("selector"), &mut errors);
            if !label_selector_matches(Some(selector), labels) {
                errors.push(workload::mismatch(labels));
            }
        }
    }
    errors
}

/// What [`generate_selector`] fills in, unless the user filled in something else.
fn generated(job: &Value, errors: &mut Vec<FieldError>) {
    let spec = job.at(&["spec"]).unwrap_or(&Value::Null);
    if spec.flag(&["manualSelector"]) || !spec.has(&["selector"]) {
        return;
    }
    let labels = spec.at(&["template", "metadata", "labels"]).unwrap_or(&Value::Null);
    let at = Path::new("spec.template.metadata.labels");
    let (uid, name) = (job.text(&["metadata", "uid"]), job.text(&["metadata", "name"]));
    let expected = UID_LABELS.map(|key| (key, uid)).into_iter();
    for (key, expected) in expected.chain(NAME_LABELS.map(|key| (key, name))) {
        match labels.at(&[key]) {
            None => errors.push(FieldError::required(at.key(key), format!("must be '{expected}'"))),
            Some(found) if found != expected => errors.push(FieldError::invalid(
                at.key(key),
                found.clone(),
                format!("must be '{expected}'"),
            )),
            Some(_) => {}
        }
    }
    let generated: Value =
        UID_LABELS.map(|k| (k, uid)).into_iter().chain(NAME_LABELS.map(|k| (k, name))).collect();
    if !label_selector_matches(spec.at(&["selector"]), Some(&generated)) {
        errors.push(FieldError::invalid(
            "spec.selector",
            spec["selector"].clone(),
            "`selector` not auto-generated",
        ));
    }
}

/// The Pods of an Indexed Job have host names, which must be labels of names.
fn validate_create(job: &Value) -> Vec<FieldError> {
    let completions = job.int(&["spec", "completions"]).unwrap_or(0);
    let name = job.text(&["metadata", "name"]);
    let last = format!("{name}-{}", completions - 1);
    if job.text(&["spec", "completionMode"]) != "Indexed"
        || completions <= 0
        || names::label_1123(&last).is_none()
    {
        return Vec::new();
    }
    vec![FieldError::invalid(
        "metadata.name",
        name,
        format!("will not able to create pod with invalid DNS label: {last}"),
    )]
}

/// Whether a condition of a Job's is true.
fn is(job: &Value, condition: &str) -> bool {
    job.list(&["status", "conditions"])
        .iter()
        .any(|c| c.text(&["type"]) == condition && c.text(&["status"]) == "True")
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let job = object.value();
    let succeeded = workload::count(&job, "succeeded");
    let parallelism = job.int(&["spec", "parallelism"]).unwrap_or(0);
    let completions = match job.int(&["spec", "completions"]) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let time = |field| job.text(&["status", field]).parse::<Timestamp>().ok();
    let duration = match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(from), to) => human_duration(to.unwrap_or(now).duration_since(from).as_secs()),
    };
    let status = match () {
        () if is(&job, "Complete") => "Complete",
        () if is(&job, "Failed") => "Failed",
        () if object.is_deleting() => "Terminating",
        () if is(&job, "Suspended") => "Suspended",
        () if is(&job, "FailureTarget") => "FailureTarget",
        () if is(&job, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let [names, images] = container_cells(job.at(&["spec", "template", "spec"]));
    vec![
        object.meta.name.as_str().into(),
        status.into(),
        completions.into(),
        duration.into(),
        object_age(object, now),
        names,
        images,
        format_selector(job.at(&["spec", "selector"])).into(),
    ]
}

#[cfg(test)]
mod tests;
