//! PID 1 and agent of the test guests.

fn main() {}
