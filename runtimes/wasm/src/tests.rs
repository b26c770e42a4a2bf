//! The host as an agent and its clients see it, with real components.

mod crafted;
mod fixture;

mod commands;
mod front;
mod images;
mod limits;
mod reuse;
mod services;
mod serving;
mod sockets;
