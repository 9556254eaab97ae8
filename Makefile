# make demo   simulated survey → catalogue → report
# make test   all tests
# Both make their own environment in .venv from any Python >= 3.11 (PYTHON=python3.12 make demo).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One torch for everybody, installed before anything that depends on it, so that no second build is fetched.
# On a machine without a GPU, PIP_EXTRA_INDEX_URL set to PyTorch's CPU index makes this a small download.
TORCH ?= torch==2.13.0

.PHONY: demo test check docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/catalogue simulate configs/simulation/demo.yaml demo/survey
	$(BIN)/catalogue build configs/demo.yaml

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	touch $@

$(VENV)/.installed-demo: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet --editable ".[simulate]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo runs
