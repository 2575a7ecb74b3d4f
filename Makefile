# make demo   adapts the default model to sentences of many languages
# make test   lint, types, the C++ core under sanitizers and the whole test suite
# make wheel  sdist and wheel, the wheel tried in an empty environment without a compiler
# Needs Python 3.10 or newer and a C++17 compiler; everything else goes into .venv.

PYTHON ?= python3
# One torch for everybody who tests; the package takes any from 2.6 on.
TORCH  ?= torch==2.13.0
VENV   := .venv
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check
# Bytecode is made at the first import instead, for what is imported: torch alone has thousands of files.
INSTALL := $(PIP) install --quiet --prefer-binary --no-compile

# What an editable install compiles or copies, and what any other one copies too.
BUILT  := pyproject.toml CMakeLists.txt $(wildcard cmake/*) $(shell find csrc models -type f)
SOURCE := $(BUILT) $(shell find pymetaner -type f -not -name '*.pyc')

.PHONY: demo test lint types core pytest wheel clean

demo: $(VENV)/.demo
	$(VENV)/bin/pymetaner demo

test: lint types core pytest

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	find csrc -name '*.[ch]pp' | xargs $(VENV)/bin/clang-format --dry-run --Werror

types: $(VENV)/.test
	$(VENV)/bin/mypy

# The C++ core under sanitizers, and compiled for ARM where there is a compiler for it.
core: $(VENV)/.test
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" sh tests/csrc/run.sh asan tsan neon

pytest: $(VENV)/.test
	$(VENV)/bin/pytest --numprocesses auto

wheel: $(VENV)/.test
	rm -rf dist
	$(VENV)/bin/python -m build
	PYTHON=$(PYTHON) TORCH=$(TORCH) sh tests/packaging/try_wheel.sh dist/*.whl

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The package as its users get it, compiled and installed; the tests run on the source tree (an editable install).
$(VENV)/.demo: $(VENV)/bin/python $(SOURCE)
	$(INSTALL) $(TORCH) .
	rm -f $(VENV)/.test
	touch $@

$(VENV)/.test: $(VENV)/bin/python $(BUILT)
	$(INSTALL) $(TORCH) --editable '.[test]' --config-settings=cmake.define.PYMETANER_WERROR=ON
	rm -f $(VENV)/.demo
	touch $@

clean:
	rm -rf $(VENV) build dist
