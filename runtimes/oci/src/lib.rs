//! The container runtime: ordinary container images, run by youki's libcontainer.
//!
//! Three kinds of processes, none of which ever has a second thread, since libcontainer clones and then runs ordinary Rust
//! in the child, where a lock that another thread held would stay locked for ever:
//!
//! - the [`zygote`], one a node, which forks a shim for each Pod. Shims share its pages, so that a Pod costs little more
//!   than what its own processes use; an `exec` of this large program would cost each its relocations;
//! - a [`shim`] a Pod: it holds the Pod's namespaces, reaps, writes logs, and serves the sandbox protocol on a socket of
//!   its own. It outlives the zygote and the agent;
//! - [`launch`]ers, forked by a shim to start one process of a container, and gone once it runs. Whatever libcontainer does
//!   to the process that it runs in (folder, priority, hanging on a dead file system) happens to them.
//!
//! What they are made of: [`spec`] says what libcontainer is to do, [`rootfs`] mounts images, [`user`] reads their users,
//! [`users`] are those that a Pod has of its own,
//! [`seccomp`] and [`capabilities`] are what a program is denied, [`cgroup`] bounds and counts.

pub mod zygote;

mod shim;

mod launch;

mod readiness;

mod spec;

mod rootfs;
mod tree;
mod user;
mod users;

mod capabilities;
mod device_filter;
mod seccomp;

mod cgroup;

mod cleanup;
mod sealed;

pub use cleanup::cleanup;
pub use zygote::{Config, run};
