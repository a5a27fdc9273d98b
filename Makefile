# tare: what isolation costs.
#
#   make compare   install what is missing, build, and run the comparison
#   make bench     install what is missing, build, and measure the figures of microVM and container
#   make test      install what is missing, build, and run every test
#   make fuzz      let cargo-fuzz run every target for FUZZ_TIME seconds (60)
#   make lint      formatting and clippy
#   make doc       the crates' documentation

SHELL := /bin/bash
CARGO ?= cargo
TARGET := x86_64-unknown-linux-musl
TARE := target/$(TARGET)/release/tare
# More arguments for `tare compare` or `tare bench`, e.g. make compare ARGS=--quick
ARGS ?=
FUZZ_TIME ?= 60
# libFuzzer wants the host's own C library; the sanitizers, flags that stable compilers hide.
FUZZ := RUSTC_BOOTSTRAP=1 $(CARGO) fuzz
FUZZ_HOST := x86_64-unknown-linux-gnu
# A test that hangs fails `make test` after this long. It takes a tenth of it where things are warm.
TEST_LIMIT ?= 60m

.PHONY: all provision build kernel compare bench test fuzz lint doc clean

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
	@status=0; for suite in vmm container; do \
	  $(TARE) bench $$suite $(ARGS) || status=$$?; done; exit $$status

# The guest kernels are built first: tests use them and do not build any.
test:
	@kernels/provision.sh build lab test
	$(CARGO) run --locked --quiet --package tare -- kernel build --all
	timeout --verbose --kill-after=30 $(TEST_LIMIT) \
		$(CARGO) test --locked --workspace --no-fail-fast

# What is found goes to fuzz/artifacts of the crate and fails; new inputs stay out of the corpus that
# is kept.
fuzz:
	@kernels/provision.sh fuzz
	for crate in vmm container; do (cd $$crate && for target in $$($(FUZZ) list); do \
	  mkdir -p fuzz/target/corpus/$$target && \
	  $(FUZZ) run --target $(FUZZ_HOST) $$target fuzz/target/corpus/$$target fuzz/corpus/$$target \
	    -- -max_total_time=$(FUZZ_TIME) -rss_limit_mb=4096 || exit 1; done) || exit 1; done

lint: provision
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings

doc: provision
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --locked --workspace --no-deps

clean:
	$(CARGO) clean
