# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest -c tests/pytest.ini --rootdir tests

# OpenMP threads that spin while they wait make torch many times slower beside any other busy process.
export OMP_WAIT_POLICY := passive
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-slow lint types clean

help:
	@echo "make demo       install, train the 2x2 sweep on a tiny Sokoban policy, write the report"
	@echo "make test       install and run the tests; make test-slow runs the longer ones"
	@echo "make lint types ruff and mypy"

demo: .venv/train
	$(BIN)/uncollapse sweep run demo

test: .venv/dev
	$(PYTEST) -m "not slow" tests

test-slow: .venv/dev
	$(PYTEST) -m slow tests

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The root folder is the package, whatever it is called: mypy sees it through a link of the right name.
types: .venv/dev
	@link=$$(mktemp -d) && ln -s "$(CURDIR)" "$$link/uncollapse" && \
	(cd "$$link" && "$(CURDIR)/$(BIN)/mypy" --config-file uncollapse/pyproject.toml --cache-dir "$(CURDIR)/.mypy_cache" -p uncollapse); \
	status=$$?; rm -r "$$link"; exit $$status

.venv/train: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "uncollapse needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (some minutes the first time)"
	$(PIP) install --constraint constraints.txt --editable ".[train]"
	@touch $@

.venv/dev: .venv/train
	$(PIP) install --constraint constraints.txt --editable ".[train,dev]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
