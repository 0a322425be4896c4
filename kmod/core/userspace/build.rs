//! Compiles `kmod/core/*.c` as they stand, with the undefined-behaviour sanitizer
//! trapping: a shift, index or overflow that C does not define ends the test.

const FILES: [&str; 14] = [
    "geom.c",
    "slotmap.c",
    "extents.c",
    "crc.c",
    "header.c",
    "protocol.c",
    "layout.c",
    "meta.c",
    "state.c",
    "marks.c",
    "reload.c",
    "utf8.c",
    "scan.c",
    "stamp.c",
];

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
        .flag("-fsanitize-undefined-trap-on-error")
        .compile("cowbird_core");
    println!("cargo::rerun-if-changed=..");
}
