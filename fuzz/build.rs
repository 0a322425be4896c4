//! Compiles the counting of code that has run. It is C, so that it is never instrumented itself.

fn main() {
    cc::Build::new()
        .file("coverage.c")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .compile("cowbird_fuzz_coverage");
    println!("cargo::rerun-if-changed=coverage.c");
}
