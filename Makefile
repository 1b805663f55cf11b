# The commands of this project. `make help` lists them; each sets up what it needs first.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# `make run` builds the dev profile: on two cores it is ready in about a third of the time that the
# release profile with its link-time optimisation takes, and a sandboxed task costs the same in
# both. `make run PROFILE=release` for the fast server.
PROFILE ?= dev
CONFIG ?= config.yaml
SEED ?=
STEPS ?=
SEEDS ?=

target_dir := $(or $(CARGO_TARGET_DIR),target)
profile_dir := $(target_dir)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
venv := $(abspath $(target_dir))/venv
export ROLLCALL_TEST_PYTHON ?= $(venv)/bin/python3

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## set up, build, and start the server with its workers (CONFIG=, PROFILE=release)
	@scripts/setup.sh run
	cargo build --locked --workspace --bins --profile $(PROFILE)
	exec $(profile_dir)/rollcall serve --config $(CONFIG)

.PHONY: monitoring
monitoring: ## Prometheus with our alerts, and Alertmanager, beside a server on this machine
	@scripts/setup.sh monitoring
	@exec scripts/monitoring.sh $(abspath $(target_dir))/monitoring

.PHONY: setup
setup: ## install what building, running and testing need (says what; quick when it is there)
	@scripts/setup.sh run test $(venv)

.PHONY: test
test: setup ## every test, the doc tests too
	@# Stories start the real programs, which cargo builds by itself only for their own package.
	cargo build --locked --workspace --bins
	cargo test --workspace --locked
	cd workers/sdk-python && $(ROLLCALL_TEST_PYTHON) -m pytest -q
	$(ROLLCALL_TEST_PYTHON) -m pytest -q -p no:cacheprovider -p no:asyncio deploy/kubernetes

.PHONY: lint
lint: lint-python ## formatting, clippy and rustdoc, ruff and mypy, with warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --locked

.PHONY: lint-python
lint-python: setup ## the part of it that is about Python
	cd workers/sdk-python && $(ROLLCALL_TEST_PYTHON) -m ruff format --no-cache --check
	cd workers/sdk-python && $(ROLLCALL_TEST_PYTHON) -m ruff check --no-cache
	cd workers/sdk-python && $(ROLLCALL_TEST_PYTHON) -m mypy --cache-dir $(abspath $(target_dir))/mypy

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all

.PHONY: docs
docs: ## the API's documentation, under target/doc
	cargo doc --no-deps --workspace --locked
	@echo "open $(target_dir)/doc/rollcall/index.html"

.PHONY: sim
sim: ## the simulator of the core alone (SEED=7 replays a seed, SEEDS= and STEPS= say how much)
	$(if $(SEED),ROLLCALL_SIM_SEED=$(SEED)) $(if $(SEEDS),ROLLCALL_SIM_SEEDS=$(SEEDS)) \
		$(if $(STEPS),ROLLCALL_SIM_STEPS=$(STEPS)) cargo test --locked --test simulation -- --nocapture

.PHONY: bench
bench: ## dispatch beside a bare proxy and print(1) beside a bare interpreter, in under four minutes once it is built; target/bench.json
	cargo bench --locked --bench dispatch
	cargo build --locked --release --package rollcall-python-sandbox
	cargo bench --locked --bench sandbox

.PHONY: bench-quick
bench-quick: ## the same with fewer rounds, in under a minute once it is built
	cargo bench --locked --bench dispatch -- --quick
	cargo build --locked --release --package rollcall-python-sandbox
	cargo bench --locked --bench sandbox -- --quick
