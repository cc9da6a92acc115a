#!/usr/bin/env bash
# e2e.sh TOPIC: the tests of one topic that need root, namespaces or real peers. Prints a line for each thing shown
# and closes with "N passed, N failed". Exit code 1 when anything failed.
set -uo pipefail
cd "$(dirname "$0")/.."
topic=${1:?usage: scripts/e2e.sh rack|mesh|encryption|bgp|datapath|kube|vm}
bin=target/debug

# Runs `cargo test` with the given arguments, one test at a time, and prints a line for each test.
tests() {
  local log passed failed rc
  log=$(mktemp)
  cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log" |
    { grep -E '^(test |shown|---- )|panicked' | grep -v '^test result:' || true; }
  rc=${PIPESTATUS[0]}
  # A run that did not get to any test, or not through, must not count as good.
  passed=$(awk '/^test result:/ {n += $4} END {print n + 0}' "$log")
  failed=$(awk '/^test result:/ {n += $6} END {print n + 0}' "$log")
  if [ "$rc" != 0 ] || [ "$passed" = 0 ]; then
    tail -n 30 "$log" >&2
    [ "$failed" != 0 ] || failed=1
  fi
  [ "$failed" = 0 ] || grep -A 30 -E '^failures:' "$log" | head -n 120 >&2
  rm -f "$log"
  printf '%s passed, %s failed\n' "$passed" "$failed"
  [ "$failed" = 0 ]
}

# The codecs and machines against a real etcd first, then whole clusters; both must be good.
mesh() {
  local rc=0
  tests -p causeway-mesh-schema -p causeway-mesh-kv -p causeway-mesh-remote -p causeway-clustermesh-apiserver \
    --tests -- --ignored --test-threads=1 || rc=1
  "$bin/causeway-e2e" mesh || rc=1
  return "$rc"
}

# The devices against wireguard-go first, then whole clusters with captures on every link.
encryption() {
  local rc=0
  # Side by side: one of them waits for two minutes.
  tests -p causeway-wireguard --tests -- --ignored --test-threads=4 || rc=1
  # A large mesh: figures of this unoptimised build, for the target's see RESULTS.md. It fails if a device holds something else.
  "$bin/causeway-bench" wireguard-scale || rc=1
  "$bin/causeway-e2e" encryption || rc=1
  return "$rc"
}

# What needs another kernel, in a virtual machine: the kernel's own WireGuard, first the backend alone, then whole clusters
# whose agents use it. Emulated it takes half an hour, so that `make test` leaves it out and `make soak` has it.
vm() {
  local rc=0 test there=target/vm/bin program
  test=$(cargo test --locked -p causeway-encryption-kernel --test kernel --no-run 2>&1 |
    sed -nE 's/.*Executable .*\((.*)\)$/\1/p')
  [ -n "$test" ] || { echo "e2e: the backend's tests do not build" >&2; return 1; }
  CI=1 VM_TIMEOUT=1500 scripts/vm.sh "$test" --ignored --test-threads 1 || rc=1
  mkdir -p "$there"
  cargo build --locked -p causeway-agent --features kernel-wireguard || rc=1
  for program in causeway{,-agent,-cni,-e2e,-echo,-lab,-lab-apiserver,-operator,-wireguard} clustermesh-apiserver; do
    cp "$bin/$program" "$there/"
  done
  VM_TIMEOUT=3000 scripts/vm.sh env LAB_PATIENCE=10 sh -c '
    modprobe -a wireguard veth bridge tun
    for scenario in rotation restart mixed; do "$0" encryption --only $scenario || rc=1; done
    exit ${rc:-0}' "$there/causeway-e2e" || rc=1
  # The next one to build gets the ordinary agent again.
  cargo build --locked -p causeway-agent || rc=1
  return "$rc"
}

case "$topic" in
  vm) vm ;;
  rack) exec "$bin/causeway-e2e" rack ;;
  mesh) mesh ;;
  encryption) encryption ;;
  bgp) tests -p causeway-bgp-speaker --tests -- --ignored --test-threads=1 ;;
  datapath) tests -p causeway-datapath-loader -p causeway-agent --tests -- --ignored --test-threads=1 ;;
  kube) tests -p causeway-lab-apiserver --tests -- --ignored --test-threads=1 ;;
  *)
    echo "e2e: unknown topic '$topic'; the topics are rack, mesh, encryption, bgp, datapath, kube, vm" >&2
    exit 2
    ;;
esac
