//! Landlock: which files this thread, and those that it starts, may use. Kernels without it get a
//! line in the log; older ones enforce what they know.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest version whose rules are asked for: it keeps sockets without a path and signals
/// within the process.
const VERSION: ABI = ABI::V6;

pub(super) fn restrict<'a>(
    read: impl Iterator<Item = &'a Path>,
    write: impl Iterator<Item = &'a Path>,
) {
    match try_restrict(read, write) {
        Ok(RulesetStatus::NotEnforced) => {
            tracing::warn!("this kernel has no Landlock: files are not restricted");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "files are not restricted"),
    }
}

fn try_restrict<'a>(
    read: impl Iterator<Item = &'a Path>,
    write: impl Iterator<Item = &'a Path>,
) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    // Nothing is ever run, so that what is written cannot be either.
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = AccessFs::from_all(VERSION)
        & !(AccessFs::Execute
            | AccessFs::MakeBlock
            | AccessFs::MakeChar
            | AccessFs::MakeSock
            | AccessFs::MakeFifo
            | AccessFs::IoctlDev);
    for path in read {
        rules = allow(rules, path, reading)?;
    }
    for path in write {
        rules = allow(rules, path, writing)?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: landlock::BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    // What does not exist needs no permission.
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(VERSION) };
    rules.add_rule(PathBeneath::new(opened, access))
}
