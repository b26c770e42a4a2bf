//! What is pure, against random input: formats, patches, schemas, expressions. A target per promise.

mod apply;
mod cel;
mod controllers;
mod custom;
mod documents;
mod kinds;
mod patches;
mod quantities;
mod selectors;
mod texts;
mod wire;
