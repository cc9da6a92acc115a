# Every target sets up what it needs. `make demo` and `make test` are the two that a newcomer types.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin
TOPIC ?= rack
LAB ?= two-clusters
BIN := target/debug

.PHONY: setup build demo demo-down test unit e2e bench soak lint fmt clean

setup:
	@scripts/setup.sh

build: setup
	@cargo build --locked --workspace

## The main job: two clusters with real FRR in their ToRs, one Service of both. Leaves the lab up. LAB=one-rack: the rack alone.
demo: build
	@scripts/demo.sh $(LAB)

demo-down:
	@$(BIN)/causeway-lab down $(LAB)

## Everything that proves the code, in under an hour on two cores.
## All targets at once: what tests need changes features of dependencies, and two sets would be built one after the other.
test: setup
	@cargo build --locked --workspace --all-targets
	@scripts/test.sh

## What needs no root: `cargo test`, in seconds.
unit:
	@scripts/unit.sh

## End to end: `make e2e TOPIC=rack|mesh|encryption|bgp|datapath|kube|vm` prints a line for each thing shown.
e2e: build
	@scripts/e2e.sh $(TOPIC)

## Side by side with peers, as ratios; writes tests/bench/RESULTS.md.
bench: setup
	@cargo build --locked --release --workspace
	@target/release/causeway-bench all --write tests/bench/RESULTS.md

## Long runs: fuzzing and simulations at full length.
soak: build
	@scripts/soak.sh

lint: setup
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings

fmt:
	@cargo fmt --all

clean:
	@cargo clean
