# Everything here does its own set-up, the first time in some minutes, later in no time.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
export XWGRID_RUNTIMES := $(CURDIR)/.venv-runtimes

.PHONY: demo test test-all check moves lock clean

# An animation by three volunteers on this machine, one of whom lies and one of whom is killed in mid frame.
demo: .venv/blender
	$(BIN)/xwgrid demo --volunteers 3 --liars 1 --crashes 1 --out demo-output

# All tests that fit into ten minutes.
test: .venv/blender
	$(BIN)/python -m pytest -q -m "not slow"

# The long ones too.
test-all: .venv/blender
	$(BIN)/python -m pytest -q

# Style, types, and the rules of the house.
check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/draw-moves --check
	$(BIN)/python -m pytest -q tests/house/test_import_rules.py tests/house/test_packages.py

# Draws the tables of legal moves into docs/lifecycle.md.
moves: .venv/ready
	$(BIN)/python tools/draw-moves

# Writes requirements-dev.lock anew from the lower bounds in setup.cfg.
lock: .venv/ready
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade \
		--extra all --extra dev --extra simulator --strip-extras --unsafe-package xwgrid \
		--no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file requirements-dev.lock setup.cfg

# Takes away everything that was made here and is not in git.
clean:
	rm -rf .venv .venv-runtimes build dist *.egg-info demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis

# --- set-up; a file below .venv says that a step is done -----------------------------------------------------------

.venv/system: apt-packages.txt tools/system-packages
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "xwgrid needs Python 3.11 or newer: install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; \
		exit 2; }
	@tools/system-packages "$(PYTHON)"
	@test -x $(BIN)/pip || "$(PYTHON)" -m venv .venv
	@touch $@

.venv/ready: .venv/system requirements-dev.lock setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Blender as a Python module, in an environment of its own below .venv-runtimes: 350 MB to fetch.
.venv/blender: .venv/ready
	$(BIN)/xwgrid-volunteer runtime install blender
	@touch $@
