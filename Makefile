# Set-up and the main jobs, each the only command that a fresh machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= demo

.PHONY: demo test test-fast lint bench docs docs-links clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	rm -rf $(DEMO)
	$(BIN)/mumo demo $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# The package is the checkout itself, whatever its folder is called: a link gives the type checker the name `mumo`.
lint: $(STAMP)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	mkdir -p build/typecheck && ln -sfn "$(CURDIR)" build/typecheck/mumo
	cd build/typecheck && MYPYPATH=. "$(abspath $(BIN))/mypy" --config-file mumo/pyproject.toml -p mumo

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Warnings are errors: a page that links to nothing, or a reference that cannot be generated, stops the build.
docs: $(STAMP)
	$(BIN)/python -m sphinx -E -W --keep-going -n -q -b html docs build/docs
	@echo "build/docs/index.html"

# Addresses outside the site; needs a network.
docs-links: $(STAMP)
	$(BIN)/python -m sphinx -E -q -b linkcheck docs build/links

clean:
	rm -rf $(VENV) build $(DEMO) .mypy_cache .pytest_cache .ruff_cache
