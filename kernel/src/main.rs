//! The image kernel.
fn main() {}
