//! Which devices the processes of a group may use.

use std::fs::File;
use std::io::{self, Write};

use serde_json::Value;

use super::Folder;
use crate::device_filter;

/// Puts rules in force, where this hierarchy has to do with devices.
pub(super) fn restrict(folder: &Folder, rules: &[Value]) -> io::Result<()> {
    let Some(controllers) = &folder.controllers else {
        return device_filter::attach(&folder.path, rules);
    };
    if !controllers.iter().any(|name| name == "devices") {
        return Ok(());
    }
    let open = |name: &str| File::options().write(true).open(folder.path.join(name));
    let (mut allow, mut deny) = (open("devices.allow")?, open("devices.deny")?);
    for rule in rules {
        let file = if rule["allow"] == true { &mut allow } else { &mut deny };
        // One at a time.
        file.write_all(version_1(rule).as_bytes())?;
    }
    Ok(())
}

/// As version 1 has it: kind, numbers and access.
fn version_1(rule: &Value) -> String {
    let number = |name: &str| rule[name].as_i64().map_or("*".to_owned(), |n| n.to_string());
    let kind = rule["type"].as_str().unwrap_or("a");
    let access = rule["access"].as_str().unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number("major"), number("minor"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_written_as_version_1_wants_them() {
        let written = |rule: Value| version_1(&rule);
        assert_eq!(written(json!({"allow": false, "access": "rwm"})), "a *:* rwm");
        assert_eq!(written(json!({"allow": true, "type": "b", "access": "m"})), "b *:* m");
        let one = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"});
        assert_eq!(written(one), "c 1:3 rw");
    }
}
