# Two commands do everything on a fresh machine with Python 3.12 and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONHASHSEED ?= 0

.PHONY: help demo test test-long lint format bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       simulate scenes, run the whole chain, leave demo/map.html to open"
	@echo "make test       the test suite (installs torch too)"
	@echo "make test-long  what takes long"
	@echo "make lint       ruff and mypy"
	@echo "make bench      benchmarks, as ratios"

.venv/created: .python-version
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
		{ echo "geoelle needs Python 3.12 or newer; this is $$($(PYTHON) --version). Use make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/core: .venv/created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --constraint constraints.txt
	touch $@

.venv/all: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[models,dev,clouds]' --constraint constraints.txt
	touch $@

demo: .venv/core
	$(BIN)/geoelle demo --out demo

test: .venv/all
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=15 -m 'not long and not bench'

test-long: .venv/all
	$(BIN)/python -m pytest -m long

bench: .venv/all
	$(BIN)/python -m pytest -m bench -s tests/benchmarks

lint: .venv/all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo runs build dist
