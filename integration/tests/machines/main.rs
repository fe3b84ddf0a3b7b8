//! The end-to-end claims.

fn main() {}
