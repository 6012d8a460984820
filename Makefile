# make               release build, and bin/ with links to the four programs
# make demo          installs what is missing, builds, and shows a cluster surviving its master
# make test          format, lints, unit, golden and end-to-end tests
# make bench         measures stolon-proxy beside HAProxy, nginx and PgBouncer, and writes benches/RESULTS.*
# make bench-quick   the same in a few minutes, to the terminal only; ARGS='--load=bulk' for a part of it
# make bench-failover  measures the gap that clients see; ARGS='--help' for the choices
#
# Everything is done by cargo or by a script; this file only names it.

CARGO ?= cargo
# where cargo puts its output, however that was configured
TARGET = $(shell $(CARGO) metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
PROGRAMS = stolonctl stolon-sentinel stolon-keeper stolon-proxy
ARGS ?=

.PHONY: build deps demo test bench bench-quick bench-failover clean

build:
	@scripts/install-deps build
	$(CARGO) build --release --locked $(PROGRAMS:%=--bin %)
	@mkdir -p bin
	@target="$(TARGET)"; for program in $(PROGRAMS); do ln -sfn "$$target/release/$$program" "bin/$$program"; done

deps:
	@scripts/install-deps

demo: deps build
	bin/stolonctl playground --tour

# --all-targets: the programs and their tests share one set of dependencies, so nothing is compiled twice; the
# end-to-end tests take the programs from there.
test: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) build --workspace --all-targets --locked
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-3} $(CARGO) test --workspace --locked --no-fail-fast

bench: bench-programs
	"$(TARGET)/release/bench-proxy" --write benches $(ARGS)

bench-quick: bench-programs
	"$(TARGET)/release/bench-proxy" --quick $(ARGS)

.PHONY: bench-programs
bench-programs: build
	@scripts/install-deps bench
	$(CARGO) build --release --locked --bin bench-proxy

bench-failover: deps build
	$(CARGO) build --release --locked --bin bench-failover
	"$(TARGET)/release/bench-failover" $(ARGS)

clean:
	$(CARGO) clean
	rm -rf bin
