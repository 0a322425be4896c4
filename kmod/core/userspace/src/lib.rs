//! The module's pure C core, built in user space.
