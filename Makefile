# `make demo` sets up and runs the main job; `make test` sets up and passes the tests.
PYTHON ?= python3
BIN := .venv/bin
WORKDIR ?= runs/demo

.PHONY: demo test check clean

demo: .venv/installed
	$(BIN)/blip-jax bootstrap --config configs/demo.py --workdir $(WORKDIR)

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "blip_jax needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf .venv runs *.egg-info
