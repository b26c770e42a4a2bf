//! Real clusters for tests: the real `coracle` binary, a real `kubectl`, free ports, a folder of their own.
//!
//! A [`Cluster`] runs as root or as an ordinary user, in one process (`up`) or in two (`server` and `agent`), so that the
//! same test body can be held against each. It ends with everything that it started; [`Cluster::stop`] also says what a
//! cluster left behind that should have gone with it: processes, network namespaces, mounts, nftables tables.
//!
//! Any cluster may begin among many objects ([`filled`]): `CORACLE_TEST_FILLED=100000` says so of all.
//!
//! A cluster of several machines ([`Cluster::fleet`]) has each in a network namespace, on a wire that a test may cut.
//!
//! [`load`] is the client under whose constant requests updates and kills are done; [`tools`] finds the programs,
//! [`guests`] makes the components that are too big to be checked in, [`containers`] container images,
//! and [`libraries`] fetches client libraries of other languages.

mod cluster;
mod command;
pub mod containers;
pub mod filled;
pub mod guests;
pub mod http;
mod leftovers;
pub mod libraries;
pub mod load;
mod process;
pub mod tools;
mod upgrade;
mod wait;
mod wire;

pub use cluster::{Cluster, HostProcess, Options, Part, Runtime, User};
pub use command::{Output, run};
pub use coracle_network::Cidr;
pub use wait::eventually;
pub use wire::Machine;
