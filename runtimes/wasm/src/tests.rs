//! The host as an agent and its clients see it, with real components.

mod fixture;

mod commands;
mod images;
mod limits;
mod services;
mod serving;
