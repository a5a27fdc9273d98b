# tare: what isolation costs.
#
#   make compare   install what is missing, build, and run the comparison
#   make bench     install what is missing, build, and measure the microVM's figures
#   make test      install what is missing, build, and run every test
#   make lint      formatting and clippy
#   make doc       the crates' documentation

SHELL := /bin/bash
CARGO ?= cargo
TARGET := x86_64-unknown-linux-musl
TARE := target/$(TARGET)/release/tare
# More arguments for `tare compare` or `tare bench`, e.g. make compare ARGS=--quick
ARGS ?=
# A test that hangs fails `make test` after this long. It takes a tenth of it where things are warm.
TEST_LIMIT ?= 60m

.PHONY: all provision build kernel compare bench test lint doc clean

all: build

provision:
	@kernels/provision.sh

build: provision
	$(CARGO) build --locked --release --package tare

kernel: build
	@$(TARE) kernel build

compare: kernel
	$(TARE) compare $(ARGS)

bench: kernel
	@$(TARE) kernel build bare
	$(TARE) bench vmm $(ARGS)

# The guest kernels are built first: tests use them and do not build any.
test: provision
	$(CARGO) run --locked --quiet --package tare -- kernel build --all
	timeout --verbose --kill-after=30 $(TEST_LIMIT) \
		$(CARGO) test --locked --workspace --no-fail-fast

lint: provision
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings

doc: provision
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --locked --workspace --no-deps

clean:
	$(CARGO) clean
