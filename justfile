# Names for what people do here; each is a line of cargo or a script. `just` is in crates.io; nothing needs it.

# what CI runs
ci:
    .ci/run

# formatting, lints
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# every test (as root)
test *FILTER:
    scripts/test {{FILTER}}

# the black-box suite alone; columns: dockerd,docker,kekkai
blackbox COLUMNS="" FILTER="":
    cargo build -p kekkai -p kekkai-keeper-bin
    KEKKAI_TEST_COLUMNS={{COLUMNS}} cargo test -p kekkai-tests --test blackbox -- {{FILTER}}

# the crash suite at every fail point
soak:
    cargo build -p kekkai -p kekkai-keeper-bin
    KEKKAI_CRASH_SHARE=1 cargo test -p kekkai-tests --test crash

# the table of bench/README.md, beside Docker (about fifteen minutes)
bench:
    cargo build --release
    target/x86_64-unknown-linux-gnu/release/kekkai-bench --write

# fuzz one target for a minute (cargo install cargo-fuzz; needs a nightly toolchain or RUSTC_BOOTSTRAP=1)
fuzz TARGET SECONDS="60":
    cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run {{TARGET}} --sanitizer none -- -max_total_time={{SECONDS}}

# the executables, to copy wherever they are wanted
dist:
    cargo build --release
    ls -l target/x86_64-unknown-linux-gnu/release/kekkai target/x86_64-unknown-linux-gnu/release/kekkai-keeper

# advisories, licences, duplicates (cargo install cargo-deny)
deny:
    cargo deny check
