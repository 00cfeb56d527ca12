# The few commands a person types. Everything is installed into .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find kernels CMakeLists.txt pyproject.toml -type f 2>/dev/null)
DEMO_AUDIO ?= examples/audio/demo.flac

.PHONY: help demo test lint format bench bench-smoke clean

help:
	@echo "make demo         install, then score a recording as a live stream"
	@echo "make test         install with all that the tests need, then run them"
	@echo "make lint         ruff, mypy and clang-format"
	@echo "make format       let ruff and clang-format rewrite the sources"
	@echo "make bench        every benchmark; writes benchmarks/results"
	@echo "make bench-smoke  the same, so short that its figures mean nothing"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.run: $(BIN)/python $(SOURCES)
	test -e $(VENV)/.dev || $(BIN)/pip install --quiet .
	touch $@

$(VENV)/.dev: $(BIN)/python $(SOURCES)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: $(VENV)/.run
	cd examples && ../$(BIN)/asa-engine assess ../$(DEMO_AUDIO) --stream --live

test: $(VENV)/.dev
	$(BIN)/pytest

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	git ls-files '*.h' '*.cc' '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	git ls-files '*.h' '*.cc' '*.cu' | xargs $(BIN)/clang-format -i

bench: $(VENV)/.dev
	$(BIN)/asa-engine bench

bench-smoke: $(VENV)/.dev
	$(BIN)/asa-engine bench --smoke --output build/bench

clean:
	rm -rf build dist $(VENV)
