//! coracle-sandbox
