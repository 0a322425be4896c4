//! Operator's control tool of the cowbird kernel module.

fn main() {}
