//! The host as an agent and its clients see it, with real components.

mod crafted;
mod fixture;

mod commands;
mod concurrent;
mod confinement;
mod front;
mod hostile;
mod images;
mod intake;
mod limits;
mod outgoing;
mod reuse;
mod services;
mod serving;
mod sockets;
mod streaming;
mod volumes;
