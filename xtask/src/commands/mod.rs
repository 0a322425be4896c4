//! The commands, each with its arguments; `cli.rs` lists them.

pub mod bench;
pub mod fresh;
pub mod fuzz;
pub mod gen_abi;
pub mod gen_docs;
pub mod lists;
pub mod merge;
pub mod mutants;
pub mod new;
pub mod prune;
pub mod replay;
pub mod scale;
pub mod setup;
pub mod shell;
pub mod shrink;
pub mod test;
pub mod test_matrix;
