# Axiom: every target installs what it needs and stops at the first error.
#
#   make demo             run server, experiments, agent and live display once; ends with a session log
#   make fast             lint, and the tests that need neither torch nor the server's packages
#   make test             all tests that are not slow; T=tests/sync runs one folder
#   make lint             ruff, mypy --strict, import-linter
#   make docs             the documentation in site/, links checked
#   make packages         deb and rpm in dist/
#   make release          everything that is published, in dist/
#   make gpu              check GPU tasks on this machine's GPU; results in gpu-record.json
# Slow (minutes to hours):
#   make science          every seed of every experiment; runs are kept in .science-runs
#   make bench            every benchmark
#   make peers            the same tasks in BOINC, Dask, Ray and others (ten minutes)
#   make fleet-http       100,000 simulated hosts over HTTP against one and two serving processes
#   make profile          where the time of a sync, a task, an idle minute and a review goes
#   make soak             an hour at full load: does anything grow? (MINUTES=60)
#   make wine             the agent's Windows code in wine (Debian's packages wine and wine64)
#   make attacks          attacks on each kind of sandbox: Landlock, bubblewrap, GPU, cohorts
#   make fuzz             100,000 inputs for each decoder
#   make fleet            1,000 simulated hosts for ten days on the real server; attacks (SEEDS="1 2")
#   make chaos-short      faults of most kinds for 90 seconds
#   make chaos            faults of every kind in real servers and agents (MINUTES=20 SEED=1)
#   make together         the agent's and the server's decisions over a lossy network (STEPS=1000000)
#   make planted          check that `chaos` and `together` find bugs that are put in on purpose
#   make mutants          change decisions, expression by expression: a test must fail (SAMPLE=400)
#   make tuf-conformance  the TUF conformance suite (SUITE=DIR, a checkout of it) on the agent's client
#   make pages-check      every page and form in chromium, axe-core, html-validate (needs npm)
#   make packages-test    build, lint and install the packages
#   make boot             the package on a Debian that boots under qemu (needs root)
#   make arm64            the package on an emulated arm64, its results against this machine's (root)

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
FAST ?= .venv-fast
# The first interpreter that is new enough; a fresh Debian or Ubuntu calls it python3.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check
SECONDS_DEMO ?= 235
export OMP_NUM_THREADS := 1
# Tests start hundreds of programs: each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo fast test lint attacks science bench peers fleet-http profile soak fuzz gpu fleet chaos chaos-short planted mutants together tuf-conformance pages-check packages packages-test boot arm64 wine docs release clean
help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install python3" >&2; exit 1; }
	@echo "== making the virtual environment in $(VENV) with $(PYTHON)"
	$(PYTHON) packaging/make_venv.py $(VENV)

$(VENV)/.run-stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "== installing the agent, the server and torch (once; a few minutes)"
	$(PIP) install --quiet -c constraints.txt -e '.[torch,server]'
	@touch $@

$(VENV)/.dev-stamp: $(VENV)/.run-stamp
	@echo "== installing the test tools (once)"
	$(PIP) install --quiet -c constraints.txt -e '.[torch,server,dev]'
	@touch $@

# A separate small environment, to test that pure code needs no torch, database or web server.
$(FAST)/.stamp: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install python3" >&2; exit 1; }
	@test -x $(FAST)/bin/python || $(PYTHON) packaging/make_venv.py $(FAST)
	@echo "== installing the agent and the test tools (once; under a minute)"
	$(FAST)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e '.[fast]'
	@touch $@

fast: $(FAST)/.stamp
	$(FAST)/bin/ruff check .
	$(FAST)/bin/ruff format --check .
	$(FAST)/bin/mypy -p axiom_protocol -p axiom_client -p axiom_server.decide
	$(FAST)/bin/lint-imports
	$(FAST)/bin/python -m pytest -n 2 tests/decide tests/contract

demo: $(VENV)/.run-stamp
	$(BIN)/axiom-server demo --seconds $(SECONDS_DEMO)

# Six tests at a time on two cores, since most of them wait at any time. T selects a folder.
T ?= tests
WORKERS ?= 6
test: $(VENV)/.dev-stamp
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(T)

lint: $(VENV)/.dev-stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@for system in win32 darwin; do echo "== the agent's types on $$system"; \
		$(BIN)/mypy --platform $$system --cache-dir .mypy_cache/$$system -p axiom_protocol -p axiom_client \
		|| exit 1; done
	$(BIN)/lint-imports

attacks: $(VENV)/.dev-stamp
	$(BIN)/python -m pytest tests/attacks
	AXIOM_ATTACKS_IN=bubblewrap $(BIN)/python -m pytest tests/attacks
	AXIOM_ATTACKS_IN=gpu $(BIN)/python -m pytest tests/attacks
	AXIOM_ATTACKS_IN=cohort $(BIN)/python -m pytest tests/attacks

pages-check: $(VENV)/.dev-stamp
	npm install --prefix .npm --no-audit --no-fund --no-save axe-core@4 html-validate@10
	AXIOM_NPM=.npm/node_modules $(BIN)/python -m pytest tests/pages

science: $(VENV)/.dev-stamp
	nice $(BIN)/python -m tests.science
	nice $(BIN)/python -m tests.science.verdicts
	nice $(BIN)/python -m pytest tests/science -m 'slow or not slow'

BENCHMARKS = $(filter-out __init__ common load pages_data results usage fleet_load fleet_http soak,$(basename $(notdir $(wildcard benchmarks/*.py))))
bench: $(VENV)/.dev-stamp
	@failed=; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "make: these benchmarks failed:$$failed" >&2; exit 1; }

$(VENV)/.bench-stamp: $(VENV)/.dev-stamp
	@echo "== installing what is compared with the agent (once)"
	$(PIP) install --quiet -c constraints.txt -e '.[torch,server,dev,bench]'
	@touch $@

# These write benchmarks/RESULTS.md and the tables of docs/performance.md. BOINC: install boinc-client.
peers: $(VENV)/.bench-stamp
	$(BIN)/python -m benchmarks.peers

fleet-http: $(VENV)/.dev-stamp
	$(BIN)/python -m benchmarks.fleet_http

profile: $(VENV)/.dev-stamp
	$(BIN)/python -m benchmarks.profiles

soak: MINUTES = 60
soak: $(VENV)/.dev-stamp
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

fuzz: $(VENV)/.dev-stamp
	@$(PIP) install --quiet --only-binary :all: atheris==3.0.0 || \
		echo "== atheris has no wheel for this Python: fuzzing without coverage guidance" >&2
	$(BIN)/python -W ignore -m tests.fuzz

gpu: $(VENV)/.dev-stamp
	$(BIN)/python packaging/gpu/prove.py --json gpu-record.json
	$(BIN)/python -m benchmarks.gpu --json gpu-record-benchmark.json

SEEDS ?= 1
fleet: $(VENV)/.dev-stamp
	AXIOM_FLEET_SEEDS="$(SEEDS)" $(BIN)/python -m pytest -s tests/fleet -m 'slow or not slow'

MINUTES ?= 20
SEED ?= 1
WITHOUT ?=
chaos: $(VENV)/.dev-stamp
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) --without "$(WITHOUT)" \
		--json chaos.json

# Without what takes minutes to settle: no account waits after lost tasks, no copy, no backup.
chaos-short: $(VENV)/.dev-stamp
	$(BIN)/python -m tests.chaos --minutes 1.5 --seed $(SEED) --vouched \
		--without clone_agent,restore_backup,upgrade_schema

planted: $(VENV)/.dev-stamp
	$(BIN)/python -m tests.chaos.planted

$(VENV)/.mutants-stamp: $(VENV)/.dev-stamp
	@echo "== installing the tool that makes mutants (once)"
	$(PIP) install --quiet -c constraints.txt -e '.[torch,server,dev,mutants]'
	@touch $@

SAMPLE ?= 400
mutants: $(VENV)/.mutants-stamp
	nice $(BIN)/python -m tests.mutants --sample $(SAMPLE)

STEPS ?= 1000000
together: $(VENV)/.dev-stamp
	$(BIN)/python -m tests.decide.together $(STEPS)

$(VENV)/.packages-stamp: $(VENV)/.dev-stamp
	@echo "== installing the tools for documents and packages (once)"
	$(PIP) install --quiet -c constraints.txt -e '.[torch,server,dev,docs,packages]'
	@touch $@

# The suite is not on PyPI: clone github.com/theupdateframework/tuf-conformance and name it in SUITE.
tuf-conformance: $(VENV)/.dev-stamp
	@test -d "$(SUITE)/tuf_conformance" || { echo "make: SUITE must be a checkout of" \
		"github.com/theupdateframework/tuf-conformance: make tuf-conformance SUITE=DIR" >&2; exit 1; }
	@command -v faketime >/dev/null || { echo "make: install the program faketime" >&2; exit 1; }
	@echo "== testing tests/trust/conformance_client.py with the suite's tests of metadata"
	PYTHONPATH=$(CURDIR):$(SUITE) $(BIN)/python -m pytest -q -c /dev/null --rootdir $(SUITE) \
		-p no:cacheprovider $(SUITE)/tuf_conformance \
		--entrypoint "$(abspath $(BIN))/python $(CURDIR)/tests/trust/conformance_client.py" \
		-k "not test_file_download and not test_static_repositories \
		and not test_updater_delegation_graphs"

packages: $(VENV)/.packages-stamp
	$(BIN)/python packaging/build_packages.py dist

packages-test: packages
	$(BIN)/python -m pytest tests/packaging -m 'slow or not slow'

boot arm64: $(VENV)/.packages-stamp
	$(BIN)/python packaging/vm/$@.py --json $@.json

wine: $(VENV)/.dev-stamp
	PYTHON=$(BIN)/python sh packaging/windows/run_tests.sh

docs: $(VENV)/.packages-stamp
	$(BIN)/python packaging/doc_tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

release: $(VENV)/.packages-stamp
	$(BIN)/python packaging/release.py dist

clean:
	rm -rf $(VENV) $(FAST) build dist site demo .science-runs
