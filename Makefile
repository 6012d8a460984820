# make               release build, and bin/ with links to the four programs
# make demo          installs what is missing, builds, and shows a cluster that survives the loss of its master
# make check         format, lints, unit tests, conventions, dashboards and rules: what to run before each commit
# make test          the same, then documentation, dependencies, models and end-to-end tests; CI runs this
# make models-sync   explores the model of synchronous replication in all bounds, in hours; ROWS=1,30 selects rows
# make test-plan     random clusters for the sentinel's decisions, a million of them, in minutes; CASES=100000 asks for fewer
# make test-majors   tests with PostgreSQL on 13, 15, 17 and 18, fetched from Debian; MAJORS="13 18" and ARGS='failover' select
# make deb           Debian package of the programs, with units, man pages and completions, and the static proxy
# make static-proxy  a statically linked stolon-proxy, one file that runs on any Linux, in target/debian/
# make test-systemd  installs the package in a container with a real systemd, and tests the units there; as root
# make bench         compares stolon-proxy with HAProxy, nginx and PgBouncer, and writes benches/RESULTS.*
# make bench-quick   the same in a few minutes, on the terminal only; ARGS='--load=bulk' selects a part
# make bench-idle    measures what an idle cluster costs: memory, CPU, writes to etcd, start times, sizes
# make bench-failover  measures the gap that clients see at a failover; ARGS='--help' lists the options
#
# Cargo and scripts do the work; this file has only the commands.

CARGO ?= cargo
# cargo's output directory, however it is configured
TARGET := $(shell $(CARGO) metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
PROGRAMS = stolonctl stolon-sentinel stolon-keeper stolon-proxy
ARGS ?=
DENY_VERSION = 0.20.2
CARGO_DEB_VERSION = 3.8.0
CARGO_DEB = $(TARGET)/tools/cargo-deb-$(CARGO_DEB_VERSION)/bin/cargo-deb
DENY = $(TARGET)/tools/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

.PHONY: build deps demo check lint test dependencies advisories deb static-proxy models-sync test-plan test-majors test-systemd bench bench-quick bench-failover bench-idle clean

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
	$(CARGO) test --workspace --lib --bins --test conventions --test dashboards --locked

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	shellcheck scripts/install-deps scripts/check-units scripts/static-proxy scripts/check-static-proxy .ci/run dist/debian/postinst dist/debian/prerm dist/debian/postrm \
		tests/systemd/run tests/systemd/checks tests/majors/fetch tests/majors/install tests/majors/run
	scripts/check-units

# --all-targets: programs and tests are built with the same features of dependencies, so nothing is compiled twice; the
# end-to-end tests use the programs from that build.
test: deps lint
	$(MAKE) --no-print-directory dependencies
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked --quiet
	$(CARGO) build --workspace --all-targets --locked
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-3} $(CARGO) test --workspace --locked --no-fail-fast

# Licences, sources and bans of all dependencies, offline. `make advisories` also checks RustSec's database.
dependencies: $(DENY)
	$(DENY) --locked --log-level error check bans licenses sources

advisories: $(DENY)
	$(DENY) --locked check advisories

$(DENY):
	$(CARGO) install --quiet --locked --version $(DENY_VERSION) --root "$(dir $(@D))" cargo-deny

# The rows of docs/design/synchronous.md 3. `make test` explores the small ones.
models-sync:
	$(CARGO) test --profile models --locked --package plan --test models -- --ignored --exact --nocapture \
		sync_model::all_rows_are_as_expected

CASES ?= 1000000
test-plan:
	PLAN_CASES=$(CASES) $(CARGO) test --release --locked --package plan --lib -- --exact --nocapture \
		tests::random_clusters::no_plan_for_any_cluster_breaks_an_invariant

# The programs of PostgreSQL are unpacked below the target directory; none is installed.
MAJORS ?= 13 15 17 18
test-majors: deps
	@scripts/install-deps majors
	$(CARGO) build --workspace --all-targets --locked
	MAJORS="$(MAJORS)" CARGO="$(CARGO)" tests/majors/run "$(TARGET)/majors" $(ARGS)

# The programs are built together with the generator, so with the same features of dependencies.
PACKAGE = $(TARGET)/release/package
deb: $(CARGO_DEB)
	@scripts/install-deps package
	$(CARGO) build --release --locked $(PROGRAMS:%=--bin %) --bin generate-docs
	rm -rf "$(PACKAGE)" "$(TARGET)/debian"
	"$(TARGET)/release/generate-docs" "$(PACKAGE)"
	gzip -9n "$(PACKAGE)"/man/*
	gzip -9nc CHANGELOG.md >"$(PACKAGE)/changelog.gz"
	mkdir "$(PACKAGE)/bin"
	for program in $(PROGRAMS); do strip -o "$(PACKAGE)/bin/$$program" "$(TARGET)/release/$$program" || exit 1; done
	"$(CARGO_DEB)" --quiet --no-build --package dist --output "$(TARGET)/debian/"
	lintian --fail-on error "$(TARGET)"/debian/*.deb
	CARGO="$(CARGO)" scripts/static-proxy "$(TARGET)/debian" --optional
	@echo "Debian package: $$(echo "$(TARGET)"/debian/*.deb)"

static-proxy:
	CARGO="$(CARGO)" scripts/static-proxy "$(TARGET)/debian"

test-systemd: deb
	@scripts/install-deps systemd
	tests/systemd/run "$(TARGET)"/debian/*.deb "$(TARGET)/systemd"

$(CARGO_DEB):
	$(CARGO) install --quiet --locked --version $(CARGO_DEB_VERSION) --root "$(dir $(@D))" cargo-deb

bench: bench-programs
	"$(TARGET)/release/bench-proxy" --write benches $(ARGS)

bench-quick: bench-programs
	"$(TARGET)/release/bench-proxy" --quick $(ARGS)

.PHONY: bench-programs
bench-programs: build
	@scripts/install-deps bench
	$(CARGO) build --release --locked --bin bench-proxy

bench-idle: deps build
	$(CARGO) build --release --locked --bin bench-idle
	"$(TARGET)/release/bench-idle" $(ARGS)

bench-failover: deps build
	$(CARGO) build --release --locked --bin bench-failover
	"$(TARGET)/release/bench-failover" $(ARGS)

clean:
	$(CARGO) clean
	rm -rf bin
