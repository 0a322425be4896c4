//! What a run leaves for other readers than people at a terminal: JUnit XML for CI engines, and one
//! page of HTML. Pure: results in, text out.

mod html;
mod junit;

pub use html::html;
pub use junit::junit;
