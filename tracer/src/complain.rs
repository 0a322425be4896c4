//! What the programs of this crate say on standard error.

/// As messages begin.
pub(crate) const PROGRAM: &str = "cowbird-trace";

/// Says on standard error what is wrong. Arguments as of `format!`.
macro_rules! complain {
    ($($arguments:tt)*) => {
        cowbird_outside::out::complain($crate::complain::PROGRAM, format_args!($($arguments)*))
    };
}
pub(crate) use complain;
