# `make demo` and `make test` need Linux or macOS, a Python >= 3.11, and nothing else: they create
# .venv from the pinned versions of requirements-lock.txt the first time, and when the lock changes.
# PYTHON=/path/to/python chooses the interpreter; GPU=cuda12 or GPU=cuda13 adds the CUDA build of JAX.

UV_VERSION = 0.13.8
BIN = .venv/bin
READY = .venv/ready
PYTEST = $(BIN)/python -m pytest
WORKERS = 2
SHELL = /bin/sh

.PHONY: demo test test-all learning gpu bench lint format notebooks lock bounds docs clean

demo: $(READY)
	$(BIN)/python examples/demo.py

# Two processes: what takes long is compiling, mostly on one core. WORKERS=8 where there is room.
test: $(READY)
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

test-all: $(READY)
	$(PYTEST) -m "not learning and not gpu" $(TESTS)

learning: $(READY)
	$(PYTEST) -m learning --timeout 7200 $(TESTS)

gpu: $(READY)
	$(PYTEST) -m gpu $(TESTS)

# The peers (PyTorch and others) get an environment of their own, beside the pinned versions.
bench: .venv-bench/ready
	.venv-bench/bin/python -m benchmarks.throughput $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(READY)
	$(PYTEST) -m "" tests/test_notebooks.py

docs: $(READY)
	tools/install.sh .venv --extra docs
	$(BIN)/mkdocs build --strict

# One lock for every supported Python: each pin carries the marker of the versions it is for.
lock: $(READY)
	$(BIN)/uv pip compile --universal --python-version 3.11 --extra dev --upgrade --quiet \
	    --no-emit-index-url --no-header pyproject.toml --output-file requirements-lock.txt

# The lowest and the highest versions that pyproject.toml allows, each in an environment of its own.
bounds: $(READY)
	tools/bounds.sh

clean:
	rm -rf .venv .venv-bench .pytest_cache .ruff_cache dist build site

$(READY): requirements-lock.txt pyproject.toml tools/install.sh
	@UV_VERSION=$(UV_VERSION) tools/install.sh .venv --lock
	@touch $@

.venv-bench/ready: requirements-lock.txt pyproject.toml tools/install.sh
	@UV_VERSION=$(UV_VERSION) tools/install.sh .venv-bench --lock
	@tools/install.sh .venv-bench --extra bench
	@touch $@
