# make demo   install once, then fit and edit an unseen critter: writes one contact sheet
# make test   install once, then lint, type-check and run the whole test suite
# make lint   ruff and mypy alone
# make docs   install once, draw the documentation's pictures and write its tables anew, and build the site into build/site
# make site   build the site alone
#
# PYTHON names the interpreter (3.11 or newer), VENV the folder of the virtual environment.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

.PHONY: demo test lint docs site
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/hiper demo

# One process per core; tests/conftest.py gives each one thread.
test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(INSTALLED_DEV)
	$(BIN)/python -m benchmarks.critters_pictures
	$(BIN)/python -m benchmarks.tables
	$(MAKE) site

site: $(INSTALLED_DEV)
	$(BIN)/mkdocs build --strict

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = sys.version_info >= (3, 11); \
	sys.exit(None if ok else "hiper needs Python 3.11 or newer, $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@
