# make run     install and run the main job
# make test    install, then ruff, mypy --strict and the tests that are not slow (also: make check)
# make slow    the slow tests
# make postgres        install a PostgreSQL server, if there is none (as root, by apt-get)
# make test-postgres   the same, then the tests of stores, which start it on a socket of their own
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: run test check slow postgres test-postgres clean

run: $(STAMP)
	$(BIN)/stillknows train

test check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n auto --dist loadfile -m "not slow"

slow: $(STAMP)
	$(BIN)/pytest -q -m slow

postgres:
	command -v initdb > /dev/null || ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || \
		(apt-get update -qq && apt-get install -y -qq postgresql)

test-postgres: postgres $(STAMP)
	$(BIN)/pytest -q tests/test_stores.py tests/test_past.py tests/test_databases.py \
		tests/test_many_writers.py tests/test_seals.py tests/test_sharing.py tests/test_memory_command.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,hf,postgres,rl]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info
