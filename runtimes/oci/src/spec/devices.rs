//! Device nodes, and which devices may be used at all.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use coracle_sandbox::{OciContainer, Problem, ProblemCode};
use serde_json::{Value, json};

use super::require_plain;

/// Folders below /dev that are not devices of the machine, but made for each container.
const NOT_DEVICES: &[&str] =
    &["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev", "ptmx"];
/// null, zero, full, random, urandom, tty, console, ptmx; and net/tun, as runc and libcontainer have it.
const USUAL: &[(u32, u32)] =
    &[(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 200)];
/// How deep /dev is looked through, and how many nodes are taken.
const DEPTH: usize = 4;
const MOST: usize = 10_000;

/// Nodes to be made and rules in force, in the OCI runtime specification's words.
pub(super) struct Devices {
    pub(super) nodes: Vec<Value>,
    pub(super) rules: Vec<Value>,
}

pub(super) fn of(oci: &OciContainer) -> Result<Devices, Problem> {
    let mut devices = Devices { nodes: Vec::new(), rules: Vec::new() };
    if oci.privileged {
        devices.rules.push(json!({"allow": true, "access": "rwm"}));
        collect(Path::new("/dev"), DEPTH, &mut devices.nodes);
        return Ok(devices);
    }
    devices.rules.push(json!({"allow": false, "access": "rwm"}));
    // Nodes may be made, but not be used.
    for kind in ["c", "b"] {
        devices.rules.push(json!({"allow": true, "type": kind, "access": "m"}));
    }
    for (major, minor) in USUAL {
        let rule =
            json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"});
        devices.rules.push(rule);
    }
    // Pseudo terminals.
    devices.rules.push(json!({"allow": true, "type": "c", "major": 136, "access": "rwm"}));
    for device in &oci.devices {
        require_plain(&device.guest_path, "oci.devices.guest_path")?;
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        if !access.chars().all(|c| "rwm".contains(c)) {
            let message =
                format!("oci.devices.permissions: {access} has other letters than r, w and m");
            return Err(Problem::new(ProblemCode::InvalidSpec, message));
        }
        let Some(mut node) = node(&device.host_path) else {
            let message =
                format!("oci.devices: {} is no device of this node", device.host_path.display());
            return Err(Problem::new(ProblemCode::InvalidSpec, message));
        };
        node["path"] = json!(device.guest_path);
        devices.rules.push(json!({
            "allow": true, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access,
        }));
        devices.nodes.push(node);
    }
    Ok(devices)
}

fn node(path: &Path) -> Option<Value> {
    let found = fs::metadata(path).ok()?;
    let kind = match found.file_type() {
        t if t.is_char_device() => "c",
        t if t.is_block_device() => "b",
        _ => return None,
    };
    let device = found.rdev();
    Some(json!({
        "path": path, "type": kind, "major": libc::major(device), "minor": libc::minor(device),
        "fileMode": found.mode() & 0o7777, "uid": found.uid(), "gid": found.gid(),
    }))
}

fn collect(folder: &Path, depth: usize, nodes: &mut Vec<Value>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter(|e| !e.file_name().to_str().is_some_and(|name| NOT_DEVICES.contains(&name)))
        .filter(|e| e.file_type().is_ok_and(|t| !t.is_symlink()))
        .map(|e| e.path())
        .collect();
    paths.sort();
    for path in paths {
        if nodes.len() >= MOST {
            return;
        }
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, nodes);
            }
        } else {
            nodes.extend(node(&path));
        }
    }
}
