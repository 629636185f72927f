# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart examples test lint types suite clean

# The torch range lies in pyproject.toml; nothing else is pinned, so the environment resolves on any platform.
$(VENV)/installed: pyproject.toml setup.py $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

quickstart: $(VENV)/installed
	$(BIN)/posttrain quickstart $(ARGS)

# Every example on the real models, with what each took; a few minutes on two cores. Structured output needs the extra
# package that the development environment has.
examples: $(VENV)/installed-dev
	@set -e; for file in examples/[a-z]*.py examples/*.yaml; do \
	  echo "== $$file"; start=$$(date +%s); \
	  case $$file in *.py) $(BIN)/python $$file;; *) $(BIN)/posttrain run $$file;; esac; \
	  echo "== $$file: $$(($$(date +%s) - start)) seconds"; \
	done

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

suite: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --dist loadgroup

test: lint types suite

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
