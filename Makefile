# Everything that a user or CI runs. `make help` lists it.

SHELL := /bin/bash
export CARGO_TERM_COLOR ?= never

# Without it AWS-LC spends 52 ms on the first random number of each process; .cargo/config.toml
# sets it too, for those who call cargo themselves.
export AWS_LC_SYS_NO_JITTER_ENTROPY = 1

export CONCLAVE_MODULE ?= $(CURDIR)/target/release/libconclave.so

# How long the long-running checks go on.
SOAK_MINUTES ?= 10
FUZZ_MINUTES ?= 10

.PHONY: help build demo demo-fleet test lint headers bench bench-smoke fuzz soak c-tests python-tests

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

build: ## target/release/libconclave.so, the command-line tool, conclaved and conclave-proxy
	cargo build --release --locked

demo: ## Build the module and put it to work with pkcs11-tool, openssl, Python and C
	@scripts/demo.sh

demo-fleet: ## Three HSMs, a quorum, PostgreSQL and two hosts; an HSM is killed while a client signs
	@scripts/demo-fleet.sh

test: ## Every check there is; installs what it needs (as root, or with sudo)
	@scripts/test.sh

lint: ## Formatting, clippy, and cargo-deny over the dependencies
	@scripts/lint.sh

headers: ## Refresh include/ from the sources
	@scripts/headers.sh

bench: ## Compare with SoftHSM2, NSS and opencryptoki
	@scripts/bench.sh

bench-smoke: ## Show that the benchmark runs
	@scripts/bench.sh --smoke

fuzz: build ## Random calls with hostile arguments, FUZZ_MINUTES=10
	@scripts/fuzz.sh $$(( $(FUZZ_MINUTES) * 60 ))

soak: build ## Many processes on one token, and on a fleet whose parts fail, SOAK_MINUTES=10
	@scripts/soak.sh $$(( $(SOAK_MINUTES) * 60 ))
	@CONCLAVE_FLEET_SOAK=$$(( $(SOAK_MINUTES) * 60 )) scripts/python-tests.sh -k test_faults

c-tests: build ## The C programs alone, e.g. make c-tests ONLY=attacks
	@scripts/c-tests.sh $(ONLY)

python-tests: build ## The Python tests alone, e.g. make python-tests ONLY='-k rsa'
	@scripts/python-tests.sh $(ONLY)
