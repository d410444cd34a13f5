# make run     install and run the main job
# make test    install, then ruff, mypy --strict and the tests that are not slow (also: make check)
# make slow    the slow tests
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: run test check slow clean

run: $(STAMP)
	$(BIN)/stillknows train

test check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -m "not slow"

slow: $(STAMP)
	$(BIN)/pytest -q -m slow

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,hf]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info
