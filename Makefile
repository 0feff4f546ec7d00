# A few words, each with its line of help. Everything is made inside this folder (.venv, build)
# and in ~/.cache/sluice (compiled test programs); nothing is left running.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help demo test fast prove bench check format proto examples lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/tests ## the main job without a cluster: throttled batches, results, the memory chart
	@tools/demo "$(BIN)/sluice"

test: $(VENV)/tests ## all tests, on a real kube-apiserver and etcd (built once, then cached)
	@$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check . && $(BIN)/mypy && $(BIN)/lint-imports
	@$(RUN) -m ground.binaries
	$(RUN) -m pytest -n auto --dist loadfile

fast: $(VENV)/tests ## the tests that need no cluster
	$(RUN) -m pytest -n auto -m "not cluster and not slow"

prove: $(VENV)/tests ## the long proofs: 200 workflows under 256 MiB, 10,000 events and 100 kills, thousands of seeds
	SLUICE_PROOF=1 $(RUN) -m pytest tests/cluster/test_never_killed.py tests/executions/test_journal_kill.py
	SLUICE_PROOF=1 $(RUN) -m pytest tests/wasm/test_cre_fuzz.py tests/wasm/test_cre_concurrency.py
	$(RUN) -m pytest tests/simulation --seeds 5000 -n auto

bench: $(VENV)/tests ## what a start, an idle workflow and a restart cost, and the reboot chart
	$(RUN) tests/bench/measure.py
	$(RUN) tests/bench/measure_cre.py
	$(BIN)/sluice bench reboot examples --workflows 60 --chart build/reboot.png

check: $(VENV)/tests ## format, lint, types, walls
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(VENV)/tests ## put every file into form
	$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format .

proto: $(VENV)/tests ## write the Python of operator/sluice/cre/proto/*.proto anew
	$(RUN) -m grpc_tools.protoc -I operator --python_out=operator --pyi_out=operator \
	  operator/sluice/cre/proto/*.proto

examples: $(VENV)/tests ## build the example workflows from their sources and pack them
	$(RUN) examples/src/build.py

lock: $(VENV)/tests ## renew the locked versions, with hashes
	tools/lock "$(RUN)"

clean: ## remove what was made inside this folder
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: 3.11 or newer is needed (make PYTHON=python3.12 …)"; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "venv is missing: apt-get install python3-venv"; exit 1; }

$(VENV)/runs: operator/requirements.txt pyproject.toml $(VENV)/bin/python
	@echo "installing what the operator needs (about half a minute)"
	@$(RUN) -m pip install -q --disable-pip-version-check --require-hashes -r operator/requirements.txt
	@$(RUN) -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/tests: tests/requirements.txt $(VENV)/runs
	@echo "installing what the tests need (about half a minute)"
	@$(RUN) -m pip install -q --disable-pip-version-check --require-hashes -r tests/requirements.txt
	@echo "$(CURDIR)/tests" > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sluice-tests.pth"
	@touch $@
