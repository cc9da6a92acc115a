#!/usr/bin/env bash
# Runs every test that needs no root, and prints the runner's summary line.
set -euo pipefail
cd "$(dirname "$0")/.."
if cargo nextest --version >/dev/null 2>&1; then
  exec cargo nextest run --locked --workspace --no-fail-fast --status-level fail --final-status-level slow
fi
exec cargo test --locked --workspace --no-fail-fast --quiet
