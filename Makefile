# make               release build, and bin/ with links to the four programs
# make demo          installs what is missing, builds, and shows a cluster surviving its master
# make check         format, lints and unit tests: what to run before each commit
# make test          the same, then documentation, dependencies, models and end-to-end tests; CI runs this
# make bench         measures stolon-proxy beside HAProxy, nginx and PgBouncer, and writes benches/RESULTS.*
# make bench-quick   the same in a few minutes, to the terminal only; ARGS='--load=bulk' for a part of it
# make bench-failover  measures the gap that clients see; ARGS='--help' for the choices
#
# Everything is done by cargo or by a script; this file only names it.

CARGO ?= cargo
# where cargo puts its output, however that was configured
TARGET := $(shell $(CARGO) metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
PROGRAMS = stolonctl stolon-sentinel stolon-keeper stolon-proxy
ARGS ?=
DENY_VERSION = 0.20.2
DENY = $(TARGET)/tools/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

.PHONY: build deps demo check lint test dependencies advisories bench bench-quick bench-failover clean

build:
	@scripts/install-deps build
	$(CARGO) build --release --locked $(PROGRAMS:%=--bin %)
	@mkdir -p bin
	@target="$(TARGET)"; for program in $(PROGRAMS); do ln -sfn "$$target/release/$$program" "bin/$$program"; done

deps:
	@scripts/install-deps

demo: deps build
	bin/stolonctl playground --tour

check: deps lint
	$(CARGO) test --workspace --lib --bins --locked

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	shellcheck scripts/install-deps .ci/run

# --all-targets: the programs and their tests share one set of dependencies, so nothing is compiled twice; the
# end-to-end tests take the programs from there.
test: deps lint
	$(MAKE) --no-print-directory dependencies
	$(CARGO) build --workspace --all-targets --locked
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-3} $(CARGO) test --workspace --locked --no-fail-fast

# Licences, sources and bans of all dependencies, without the network. `make advisories` also asks RustSec's database.
dependencies: $(DENY)
	$(DENY) --locked --log-level error check bans licenses sources

advisories: $(DENY)
	$(DENY) --locked check advisories

$(DENY):
	$(CARGO) install --quiet --locked --version $(DENY_VERSION) --root "$(dir $(@D))" cargo-deny

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
