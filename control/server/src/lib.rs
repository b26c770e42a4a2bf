//! coracle-server

pub mod auth;
