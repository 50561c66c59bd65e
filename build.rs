//! Tells the linker how to build a Node addon, where one is built.
//!
//! It does what `napi_build::setup` does for the platforms of this package, but for one thing: that asks cargo to compile
//! again whenever a variable changes which napi's CLI sets in the first build of a checkout and not in the second, so that
//! the second build compiles everything anew.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_BINDING").is_none() {
        return;
    }
    // The macros of napi-derive write the declarations there as they are compiled.
    println!("cargo::rerun-if-env-changed=NAPI_TYPE_DEF_TMP_FOLDER");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        // The functions of Node are found when it loads the addon.
        for argument in ["-Wl", "-undefined", "dynamic_lookup"] {
            println!("cargo::rustc-cdylib-link-arg={argument}");
        }
    }
}
