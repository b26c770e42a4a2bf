//! Real containers, from busybox as an image of one layer, driven by the sandbox protocol alone. Needs root, and Debian's
//! `busybox-static`; where one is missing, tests say that they are skipped.

mod fixture;

mod entering;
mod lifecycle;
mod limits;
mod rights;
mod streams;
mod survival;
mod users;
