//! The oracle: what every block must contain, without any I/O.
