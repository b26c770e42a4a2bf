//! The API server: everything between a client's bytes and the store.
//!
//! Read in this order: [`serve`] accepts connections, [`pods`] those of Pods; [`http`] turns requests into calls; [`registry`] is the one path by
//! which anything is written; [`cache`] holds the cluster in memory and feeds watches, [`custom`] its custom kinds; [`driver`] and
//! [`scheduling`] run the controllers and the scheduler; [`auth`] says who may do what, [`flow`] in which turn, [`audit`] writes down who
//! did; [`tunnels`] leads to agents, [`reach`] to what runs on their nodes, [`aggregation`] to other API servers; [`encryption`] is
//! between the store and all of them. [`distribution`] is the image registry that is served
//! beside the API.

mod aggregation;
mod audit;
pub mod auth;
mod bootstrap;
mod cache;
mod config;
mod custom;
pub mod distribution;
mod driver;
mod encryption;
mod events;
mod flow;
mod http;
mod keys;
mod pods;
mod reach;
mod recorder;
mod registry;
mod scheduling;
mod serve;
mod tls;
mod tunnels;

#[cfg(test)]
mod tests;

pub use audit::LogOptions;
pub use auth::{AuthenticationError, AuthenticationOptions, OidcOptions};
pub use config::{Config, StartError};
pub use encryption::EncryptionError;
pub use serve::{Server, start};
