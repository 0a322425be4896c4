//! Compiles `kmod/core/*.c` as they stand, with the undefined-behaviour sanitizer
//! trapping: a shift, index or overflow that C does not define ends the test.

const FILES: [&str; 15] = [
    "geom.c",
    "slotmap.c",
    "extents.c",
    "crc.c",
    "sum.c",
    "header.c",
    "protocol.c",
    "layout.c",
    "meta.c",
    "state.c",
    "marks.c",
    "reload.c",
    "utf8.c",
    "scan.c",
    "samples.c",
];

/// Set where the code is to be told apart that has run and that has not.
const COVERAGE: &str = "COWBIRD_CORE_COVERAGE";

fn main() {
    let mut build = cc::Build::new();
    for file in FILES {
        build.file(format!("../{file}"));
    }
    build
        .std("gnu11")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .flag("-fsanitize=undefined,bounds")
        .flag("-fsanitize-undefined-trap-on-error");
    // `cargo xtask fuzz` links what counts the code that has run.
    if std::env::var_os(COVERAGE).is_some() {
        build.flag("-fsanitize-coverage=trace-pc");
    }
    build.compile("cowbird_core");
    println!("cargo::rerun-if-changed=..");
    println!("cargo::rerun-if-env-changed={COVERAGE}");
}
