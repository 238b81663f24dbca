//! `cargo fuzz run image_documents`; built without cargo-fuzz, it runs the files named on its command line once each.

#![allow(unexpected_cfgs, reason = "cargo-fuzz sets `fuzzing`")]
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kekkai_fuzz::image_documents(data));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    kekkai_fuzz::replay(kekkai_fuzz::image_documents)
}
