# The study from a shell. `make repro` and `make test` are all that most need.
#
#   make repro                 build the environment, run the pipeline, name the report
#   make repro BUDGET=smoke    the same with another budget of params.yaml
#   make repro JOBS=1          one stage at a time; else as many as cores, four at most
#   make test                  the tests
#   make rehearse              every stage of budget paper on stand-ins, in build/rehearsal
#   make teachers              train the networks of data/teachers anew: hours; may be stopped
#   make torture               the smoke pipeline killed at random moments: reports/torture.json
#   make audit                 known weaknesses of the locked packages: needs pypi.org's JSON API
#   make bench                 timings beside common practice, into reports/benchmarks.json
#   make lab                   JupyterLab on the notebooks
#   make check                 lint, types, layers of imports, notebooks free of outputs
#   make repro TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                              take torch's CPU build, on a machine without a GPU

PYTHON ?= python3
VENV ?= .venv
BUDGET ?=
JOBS ?=
TORCH_INDEX ?=

ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV): name one folder, without a space)
endif
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# an environment that was made for another folder, or came with a copy of the clone, is made again
MOVED := $(shell test "$$(cat $(INSTALLED) 2>/dev/null)" = "$$(pwd -P)" || echo moved)
# what DVC asks of a user that this machine has no entry of, and of one whose shell runs nothing
export USER := $(or $(USER),$(shell id -u))
export HOME := $(or $(HOME),/tmp)
export SHELL := /bin/sh
# not abspath, which takes a folder with a space for two
export PATH := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(BIN):$(PATH)

.PHONY: repro teachers test rehearse torture audit bench lab check lock clean moved
.DEFAULT_GOAL := repro

repro: $(INSTALLED)
	@$(if $(BUDGET),augkd budget $(BUDGET),augkd budget)
	AUGKD_JOBS=$(JOBS) python -m augkd.study.pipeline.side_by_side
	@echo "The report: $$PWD/reports/index.html"

teachers: $(INSTALLED)
	augkd budget teachers
	AUGKD_JOBS=$(JOBS) python -m augkd.study.pipeline.side_by_side
	python -m augkd.study.ship
	augkd budget cpu

test: $(INSTALLED)
	python -m pytest

rehearse: $(INSTALLED)
	rm -rf build/rehearsal
	python tests/rehearse_paper.py build/rehearsal

# in build/torture; MORE="--minutes 60 --kills 200"
torture: $(INSTALLED)
	rm -rf build/torture
	python -m benchmarks.torture build/torture $(MORE)

# --strict: what the service does not know is no clean answer
audit:
	$(PYTHON) bootstrap.py build/audit && build/audit/bin/pip install -q pip-audit
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock

bench: $(INSTALLED)
	python -m benchmarks

lab: $(INSTALLED)
	jupyter lab notebooks

check: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache
	python tests/notebooks_are_clean.py

# The environment is rebuilt when the lock changes. torch comes from the ordinary index (CUDA where
# the platform has it, with libraries that the lock does not name), or from TORCH_INDEX; both give
# the locked version.
$(INSTALLED): requirements.lock pyproject.toml $(MOVED)
	@test -e .git || { echo "no .git here: git clone the study (a ZIP download has no history)," \
		"or git init and git commit" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) bootstrap.py $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q $(addprefix --index-url ,$(TORCH_INDEX)) "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --disable-pip-version-check -q --no-deps -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e ".[study]"
	@pwd -P > $@

# What pyproject.toml asks for, resolved anew. Look at the difference before committing it.
lock:
	rm -rf build/lock && $(PYTHON) bootstrap.py build/lock
	build/lock/bin/pip install -q "torch==2.13.0" && build/lock/bin/pip install -q -e ".[dev]" hatchling editables
	{ echo "# Made by 'make lock' from pyproject.toml. torch: the CPU build satisfies it too."; \
	  echo "# Without rfc3987-syntax and its lark, an extra of jsonschema: where they are, every process that"; \
	  echo "# reads a notebook builds a grammar of IRIs first, for two seconds. Hence --no-deps."; \
	  build/lock/bin/pip freeze --all --exclude-editable --exclude pip --exclude rfc3987-syntax --exclude lark | sed 's/^torch==\([0-9.]*\).*/torch==\1/'; } > requirements.lock

clean:
	rm -rf build runs .state
