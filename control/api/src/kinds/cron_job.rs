//! CronJob.

use serde_json::json;

use super::common::{
    AGE, NAME, age_of, container_cells, format_selector, integer, object_age, prepare_with_labels,
    text, wide,
};
use super::job::spec;
use super::*;
use crate::cron::{self, Schedule};
use crate::json::{Json, default_text, object, set_default};
use crate::path::Path;

/// `cronjobs.batch`.
pub static KIND: Kind = Kind {
    group: "batch",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    resource: "cronjobs.batch",
    short_names: &["cj"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    default,
    prepare: prepare_with_labels,
    validate,
    validate_create,
    validate_update,
    columns: &[
        NAME,
        text("Schedule", "The schedule in Cron format."),
        text("Timezone", "The time zone that the schedule is in."),
        text("Suspend", "Whether subsequent executions are suspended."),
        integer("Active", "How many of its jobs are running."),
        text("Last Schedule", "Time since a job was last scheduled."),
        AGE,
        wide("Containers", "Names of each container in the template."),
        wide("Images", "Images referenced by each container in the template."),
        wide("Selector", "Label selector for pods."),
    ],
    cells,
    ..Kind::BASE
};

/// A Job's name is a CronJob's, a hyphen and ten digits, and must be a label.
const LONGEST_NAME: usize = 63 - 11;

fn default(cron_job: &mut Value) {
    let Some(spec) = cron_job.as_object_mut().and_then(|c| object(c, "spec")) else { return };
    default_text(spec, "concurrencyPolicy", "Allow");
    set_default(spec, "suspend", || false);
    set_default(spec, "successfulJobsHistoryLimit", || 3);
    set_default(spec, "failedJobsHistoryLimit", || 1);
    if let Some(template) = object(spec, "jobTemplate") {
        set_default(template, "metadata", || json!({}));
        if let Some(job) = object(template, "spec") {
            let of_pods = object(job, "template");
            of_pods.into_iter().for_each(super::pod::defaults::template);
        }
    }
}

fn validate(cron_job: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let spec = cron_job.at(&["spec"]).unwrap_or(&Value::Null);
    let schedule = spec.text(&["schedule"]);
    if schedule.is_empty() {
        errors.push(FieldError::required(at.child("schedule"), ""));
    } else if schedule.contains("TZ") {
        errors.push(FieldError::invalid(
            at.child("schedule"),
            schedule,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ));
    } else if let Err(why) = schedule.parse::<Schedule>() {
        errors.push(FieldError::invalid(at.child("schedule"), schedule, why));
    }
    for field in
        ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]
    {
        workload::not_negative(spec, field, &at, &mut errors);
    }
    match spec.text(&["concurrencyPolicy"]) {
        "" => errors.push(FieldError::required(at.child("concurrencyPolicy"), "")),
        "Allow" | "Forbid" | "Replace" => {}
        other => errors.push(FieldError::not_supported(
            at.child("concurrencyPolicy"),
            other,
            &["Allow", "Forbid", "Replace"],
        )),
    }
    let at = at.child("jobTemplate");
    let at = at.child("spec");
    let job = spec.at(&["jobTemplate", "spec"]).unwrap_or(&Value::Null);
    spec::validate(job, &at, &mut errors);
    if let Some(selector) = job.at(&["selector"]) {
        let why = "`selector` will be auto-generated";
        errors.push(FieldError::invalid(at.child("selector"), selector.clone(), why));
    }
    if job.flag(&["manualSelector"]) {
        let at = at.child("manualSelector");
        errors.push(FieldError::not_supported(at, true, &["nil", "false"]));
    }
    errors
}

fn validate_create(cron_job: &Value) -> Vec<FieldError> {
    let mut errors = time_zone(cron_job);
    let name = cron_job.text(&["metadata", "name"]);
    if name.len() > LONGEST_NAME {
        let why = format!("must be no more than {LONGEST_NAME} characters");
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    errors
}

/// A zone that the database no longer knows may stay.
fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let zone = |cron_job: &Value| cron_job.at(&["spec", "timeZone"]).cloned();
    if zone(new) == zone(old) { Vec::new() } else { time_zone(new) }
}

fn time_zone(cron_job: &Value) -> Vec<FieldError> {
    let Some(name) = cron_job.at(&["spec", "timeZone"]).and_then(Value::as_str) else {
        return Vec::new();
    };
    let why = if name.is_empty() {
        "timeZone must be nil or non-empty string".to_owned()
    } else if name.eq_ignore_ascii_case("local") {
        "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
            .to_owned()
    } else if let Err(why) = cron::zone(Some(name)) {
        why
    } else {
        return Vec::new();
    };
    vec![FieldError::invalid("spec.timeZone", name, why)]
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let cron_job = object.value();
    let spec = cron_job.at(&["spec"]).unwrap_or(&Value::Null);
    let suspended = match spec.at(&["suspend"]).and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match cron_job.text(&["status", "lastScheduleTime"]) {
        "" => "<none>".to_owned(),
        time => age_of(time, now),
    };
    let zone = spec.text(&["timeZone"]);
    let job = spec.at(&["jobTemplate", "spec"]).unwrap_or(&Value::Null);
    let [names, images] = container_cells(job.at(&["template", "spec"]));
    vec![
        object.meta.name.as_str().into(),
        spec.text(&["schedule"]).into(),
        common::or(zone, "<none>").into(),
        suspended.into(),
        cron_job.list(&["status", "active"]).len().into(),
        last.into(),
        object_age(object, now),
        names,
        images,
        format_selector(job.at(&["selector"])).into(),
    ]
}

#[cfg(test)]
mod tests;
