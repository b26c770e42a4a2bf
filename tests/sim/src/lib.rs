//! coracle-sim
