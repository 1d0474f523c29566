#!/usr/bin/env bash
# Everything that CI checks, and what to run before pushing.
#
#   ./ci.sh           format, lints, tests, docs, engine alone, demo, short benchmark,
#                     simulation, gRPC and Thrift suites and soak
#   ./ci.sh --full    also the feature powerset, the minimum Rust version and cargo-deny,
#                     each skipped with a reason where its tool is not installed
#
# Stops at the first step that fails, names it, and exits with its status.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec </dev/null

export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
# Results are compared and logged, not debugged: smaller artifacts, a quicker link.
export CARGO_INCREMENTAL=0

full=no
case "${1-}" in
    "") ;;
    --full) full=yes ;;
    *)
        echo "usage: ./ci.sh [--full]" >&2
        exit 2
        ;;
esac

started=$SECONDS

step() { # step TITLE COMMAND...
    local title=$1 began=$SECONDS status=0
    shift
    printf '\n=== %s\n    %s\n' "$title" "$*"
    "$@" || status=$?
    if ((status != 0)); then
        printf '\n=== FAILED: %s (status %d, after %d s)\n' \
            "$title" "$status" "$((SECONDS - began))" >&2
        exit "$status"
    fi
    printf -- '--- %s: ok, %d s\n' "$title" "$((SECONDS - began))"
}

skip() { # skip TITLE REASON
    printf '\n=== %s\n--- skipped: %s\n' "$1" "$2"
}

members=$(sed -n 's/^members = \[\(.*\)\]/\1/p' Cargo.toml | tr -d '",')
msrv=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
target=${CARGO_TARGET_DIR:-target}

step "format" cargo fmt --all --check
step "lints" \
    cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
step "tests" cargo test --workspace --locked
step "docs" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
step "engine alone: lints" \
    cargo clippy -p homa-client --no-default-features --all-targets --locked -- -D warnings
step "engine alone: tests" cargo test -p homa-client --no-default-features --locked
# Each once, without measuring; fails when an RPC or a peer occupies more than its goal.
step "engine benchmarks, smoke" cargo test -p homa-client --bench engine --bench memory --locked
step "demo" cargo run --release -p homa-examples --bin greeter --locked
step "benchmark" cargo run --release -p homa-interop --locked -- \
    bench compare --quick --json "$target/bench-compare.json"
step "benchmark, Thrift" cargo run --release -p homa-interop --locked -- \
    bench compare --suite thrift --quick --json "$target/bench-compare-thrift.json"
step "simulator" cargo run --release -p homa-interop --locked -- \
    sim --quick --snapshot interop/snapshots/sim-quick.txt --json "$target/sim.json"
step "gRPC suite" cargo run --release -p homa-interop --locked -- \
    matrix --suite grpc --transport tcp --transport udp --transport udp-pull --quick \
    --json "$target/matrix.json"
# Fails, too, if a handler ran twice for one call.
step "gRPC suite, bad network" cargo run --release -p homa-interop --locked -- \
    matrix --suite grpc --transport udp --transport udp-pull --quick \
    --loss 5 --reorder 5 --duplicate 5 \
    --json "$target/matrix-faults.json"
# Python's part is skipped where interop/foreign/setup.sh has not made it.
step "Thrift suite" cargo run --release -p homa-interop --locked -- \
    matrix --suite thrift --transport udp --transport tcp-framed --transport tcp-buffered \
    --transport unix-framed --transport python-client --transport python-server \
    --transport thriftpy2-client --transport thriftpy2-server --quick \
    --json "$target/matrix-thrift.json"
step "Thrift suite, bad network" cargo run --release -p homa-interop --locked -- \
    matrix --suite thrift --transport udp --quick --loss 5 --reorder 5 --duplicate 5 \
    --json "$target/matrix-thrift-faults.json"
step "soak" cargo run --release -p homa-interop --locked -- \
    soak --seconds 5 --loss 5 --json "$target/soak.json"

if [[ $full == yes ]]; then
    if cargo hack --version >/dev/null 2>&1; then
        step "feature powerset" \
            cargo hack check --workspace --feature-powerset --depth 2 --no-dev-deps --locked
    else
        skip "feature powerset" "cargo-hack is not installed (cargo install cargo-hack)"
    fi

    if ! command -v rustup >/dev/null 2>&1; then
        skip "Rust $msrv" "rustup is not installed"
    elif ! rustup run "$msrv" cargo --version >/dev/null 2>&1; then
        skip "Rust $msrv" "this toolchain is not installed (rustup toolchain install $msrv)"
    else
        step "Rust $msrv" env CARGO_TARGET_DIR="$target/msrv" \
            rustup run "$msrv" cargo check --workspace --all-features --locked
    fi

    if cargo deny --version >/dev/null 2>&1; then
        step "dependencies" cargo deny --all-features check bans licenses sources
    else
        skip "dependencies" "cargo-deny is not installed (cargo install cargo-deny)"
    fi
fi

printf '\nAll of %s checked in %d s.\n' "$members" "$((SECONDS - started))"
