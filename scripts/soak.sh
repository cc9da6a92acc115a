#!/usr/bin/env bash
# The long runs of which `make test` runs a bounded share.
set -euo pipefail
cd "$(dirname "$0")/.."
cases=${CASES:-200000000}
echo "soak: $cases mutated inputs through the BGP decoders"
CAUSEWAY_FUZZ_CASES=$cases cargo test --locked --release -p causeway-bgp-wire
echo "soak: property tests, 100,000 cases each"
PROPTEST_CASES=100000 cargo test --locked --release -p causeway-bgp-core -p causeway-datapath-logic -p causeway-table
runs=${RUNS:-10000}
echo "soak: $runs simulated meshes"
CAUSEWAY_SIM_RUNS=$runs cargo test --locked --release -p causeway-mesh-remote --test simulation
echo "soak: property tests of the mesh, 100,000 cases each"
PROPTEST_CASES=100000 cargo test --locked --release -p causeway-mesh-schema -p causeway-mesh-kv
echo "soak: $runs simulated rotations of keys"
CAUSEWAY_SIM_RUNS=$runs cargo test --locked --release -p causeway-encryption-plan --test simulation
echo "soak: the kernel's WireGuard, in a virtual machine"
cargo build --locked --workspace --all-targets
scripts/e2e.sh vm
