//! What every list of cases sees.

pub(super) use cowbird_adversity::*;
pub(super) use cowbird_cases::*;
pub(super) use cowbird_vm::layout::Layout;
