//! Documents link to files that exist.

use std::path::Path;

use crate::Tracked;

/// Relative links (`](path)`) of a Markdown file that lead nowhere below `root`.
pub fn complaints(root: &Path, file: &Tracked) -> Vec<String> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let folder = root.join(&file.path).parent().map(Path::to_owned).unwrap_or_default();
    let targets = file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(' '))
        .filter(|target| !folder.join(target).exists())
        .map(|target| format!("{} links to {target}, which does not exist", file.path))
        .collect()
}
