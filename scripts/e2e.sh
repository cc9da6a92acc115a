#!/usr/bin/env bash
# e2e.sh TOPIC: the tests of one topic that need root, namespaces or real peers. Prints a line for each thing shown
# and closes with "N passed, N failed". Exit code 1 when anything failed.
set -uo pipefail
cd "$(dirname "$0")/.."
topic=${1:?usage: scripts/e2e.sh rack|bgp|datapath|kube|wire}
bin=target/debug

# Ignored tests of a package: those that say why they need more than a plain `cargo test` gives.
ignored() {
  local log passed failed
  log=$(mktemp)
  cargo test --locked "$@" -- --ignored --test-threads=1 2>&1 | tee "$log" | grep -E '^(test |shown|---- )|panicked' || true
  # The pipe hides cargo's exit code; a run that never reached its tests has no result line and counts as a failure.
  passed=$(awk '/^test result:/ {n += $4} END {print n + 0}' "$log")
  failed=$(awk '/^test result:/ {n += $6} END {print n + 0}' "$log")
  if ! grep -q '^test result:' "$log"; then
    tail -n 30 "$log" >&2
    failed=1
  fi
  [ "$failed" = 0 ] || grep -A 30 -E '^failures:' "$log" | head -n 120 >&2
  rm -f "$log"
  printf '%s passed, %s failed\n' "$passed" "$failed"
  [ "$failed" = 0 ]
}

case "$topic" in
  rack) exec "$bin/causeway-e2e" rack ;;
  bgp) ignored -p causeway-bgp-speaker ;;
  datapath) ignored -p causeway-datapath-loader -p causeway-agent ;;
  kube) ignored -p causeway-lab-apiserver ;;
  *)
    echo "e2e: unknown topic '$topic'; the topics are rack, bgp, datapath, kube" >&2
    exit 2
    ;;
esac
