//! FlowSchemas: says of each whether the priority level that it names is there (upstream's api-priority-and-fairness
//! configuration). Who makes both waits for that.

use coracle_api::json::Json;
use coracle_api::plan::{Controller, Key};
use coracle_api::{Cluster, Object, Plan, kinds};
use serde_json::{Value, json};

use crate::patch;

/// Plans the condition `Dangling`.
#[derive(Debug, Clone, Copy)]
pub struct FlowSchemaController;

impl Controller for FlowSchemaController {
    fn name(&self) -> &'static str {
        "flow-schema"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == kinds::FLOW_SCHEMA.resource {
            return vec![Key::of(object)];
        }
        if object.kind.resource != kinds::PRIORITY_LEVEL_CONFIGURATION.resource {
            return Vec::new();
        }
        let all = cluster.list(&kinds::FLOW_SCHEMA);
        let of_level = all.filter(|schema| level(&schema.value()) == object.meta.name);
        of_level.map(|schema| Key::of(schema)).collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(schema) = cluster.get(&kinds::FLOW_SCHEMA, "", &key.name) else { return plan };
        let tree = schema.value();
        let level = level(&tree);
        let of = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?}"
        );
        let (status, reason, message) =
            match cluster.get(&kinds::PRIORITY_LEVEL_CONFIGURATION, "", level) {
                Some(_) => ("False", "Found", format!("{of} and it exists")),
                None => ("True", "NotFound", format!("{of} but there is no such object")),
            };
        let mut conditions = tree.list(&["status", "conditions"]).to_vec();
        let is_told = |c: &Value| {
            c["type"] == "Dangling"
                && (c.text(&["status"]), c.text(&["reason"]), c.text(&["message"]))
                    == (status, reason, message.as_str())
        };
        if schema.is_deleting() || conditions.iter().any(is_told) {
            return plan;
        }
        conditions.retain(|condition| condition["type"] != "Dangling");
        conditions.push(json!({
            "type": "Dangling",
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": patch::time(cluster.now),
        }));
        plan.patch_status(schema, json!({"status": {"conditions": conditions}}));
        plan
    }
}

/// The priority level that a schema names.
fn level(schema: &Value) -> &str {
    schema.text(&["spec", "priorityLevelConfiguration", "name"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cluster, patches};

    #[test]
    fn it_says_whether_there_is_the_level() {
        let schema = |conditions: Value| {
            json!({
                "metadata": {"name": "s"},
                "spec": {"priorityLevelConfiguration": {"name": "l"}},
                "status": {"conditions": conditions},
            })
        };
        let level = json!({"metadata": {"name": "l"}});
        let key = Key::new("", "s");
        let planned = |cluster: &Cluster| {
            let plan = FlowSchemaController.reconcile(cluster, &key);
            patches(&plan).first().map(|(_, patch)| patch["status"]["conditions"].clone())
        };
        let missing = planned(&cluster([(&kinds::FLOW_SCHEMA, schema(json!([])))]));
        let missing = missing.expect("a patch");
        assert_eq!(
            missing,
            json!([{
                "type": "Dangling",
                "status": "True",
                "reason": "NotFound",
                "message": "This FlowSchema references the PriorityLevelConfiguration object named \"l\" but there is no such \
                            object",
                "lastTransitionTime": crate::tests::NOW,
            }])
        );
        let with_level = cluster([
            (&kinds::FLOW_SCHEMA, schema(missing)),
            (&kinds::PRIORITY_LEVEL_CONFIGURATION, level),
        ]);
        let object = with_level.get(&kinds::PRIORITY_LEVEL_CONFIGURATION, "", "l").expect("it");
        assert_eq!(FlowSchemaController.wakes(&with_level, object), std::slice::from_ref(&key));
        let there = planned(&with_level).expect("a patch");
        assert_eq!((&there[0]["status"], &there[0]["reason"]), (&json!("False"), &json!("Found")));
        assert_eq!(there.as_array().map(Vec::len), Some(1));
        // What is told already is not told again.
        let level = json!({"metadata": {"name": "l"}});
        let told = cluster([
            (&kinds::FLOW_SCHEMA, schema(there)),
            (&kinds::PRIORITY_LEVEL_CONFIGURATION, level),
        ]);
        assert_eq!(planned(&told), None);
    }
}
