//! PodTemplate.

use super::common::{NAME, container_cells, format_labels, text};
use super::*;
use crate::json::{Json, object};
use crate::path::Path;

/// `podtemplates`.
pub static KIND: Kind = Kind {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    resource: "podtemplates",
    generation: Generation::Spec,
    default: |template| {
        if let Some(template) = template.as_object_mut().and_then(|t| object(t, "template")) {
            pod::defaults::template(template);
        }
    },
    validate: |template| {
        let mut errors = Vec::new();
        let template = template.at(&["template"]).unwrap_or(&Value::Null);
        pod::validate::template_spec(template, &Path::new("template"), &mut errors);
        errors
    },
    columns: &[
        NAME,
        text("Containers", "Names of each container in the template."),
        text("Images", "Images referenced by each container in the template."),
        text("Pod Labels", "Labels of pods that are made from the template."),
    ],
    cells: |object, _| {
        let template = object.value();
        let [names, images] = container_cells(template.at(&["template", "spec"]));
        let labels = format_labels(template.at(&["template", "metadata", "labels"]));
        vec![object.meta.name.as_str().into(), names, images, labels.into()]
    },
    ..Kind::BASE
};
