# Everything happens in .venv, which the first target that needs it makes; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD_INPUTS := setup.py pyproject.toml constraints.txt $(wildcard build_backend/*.py csrc/*/*)
CPP := $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)
# Processes that share the unit tests.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
# Each of these suites runs in a process of its own.
SUITES := interpret or aot or nvcc or packaging

.DEFAULT_GOAL := help
.PHONY: help venv install demo test lint test-unit test-interpret test-aot test-nvcc test-packaging bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 17

venv: $(VENV)/.made ## make the virtual environment, with PyTorch in it

install: $(VENV)/.installed ## build the package and install it in place, with the tools for its tests

demo: install ## train a VAE with fused ops, write its pictures, time fused against stock
	$(BIN)/pyaegpu train vae --data digits --out out/demo
	$(BIN)/python -m benchmarks.demo

# What compiles and interprets kernels uses one core, so two of those stages run at a time. The unit tests, which are
# processes of their own, have the machine to themselves.
test: install ## run every check and test (the unit tests come last)
	@status=0; \
	$(MAKE) --no-print-directory --keep-going -j2 --output-sync=target \
	  test-aot test-interpret lint test-nvcc test-packaging || status=1; \
	$(MAKE) --no-print-directory test-unit || status=1; \
	exit $$status

lint: install ## check style: ruff and clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)

test-unit: install ## run the unit tests
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not ($(SUITES))"

test-interpret: install ## run the Triton kernels in Triton's interpreter, on the CPU
	TRITON_INTERPRET=1 $(BIN)/pytest -m interpret

test-aot: install ## compile the Triton kernels ahead of time for sm_80, sm_90 and sm_100
	$(BIN)/pytest -m aot

test-nvcc: install ## compile csrc/cuda with nvcc and read what became of it
	$(BIN)/pytest -m nvcc

test-packaging: install ## build the sdist and the wheel, and install them in fresh environments
	$(BIN)/pytest -m packaging

bench: install ## measure fused against eager and compiled PyTorch
	$(BIN)/python -m benchmarks.run --out out/bench

clean: ## remove what was built; the virtual environment stays
	rm -rf build dist *.egg-info pyaegpu/*.so pyaegpu/_build.json $(VENV)/.installed
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(VENV)/.made: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	  "pyaegpu needs Python 3.10 or newer; name one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt torch setuptools ninja
	@touch $@

# In place, so that the checkout's own folder, which Python finds first, is the package that was built.
$(VENV)/.installed: $(VENV)/.made $(BUILD_INPUTS)
	$(BIN)/pip install -c constraints.txt --no-build-isolation -e '.[test]'
	@touch $@
