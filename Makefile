# Two commands for a fresh machine with Python 3.10 to 3.13 and g++: `make demo` and `make test`.
PYTHON ?= python3
VENV_DEMO := .venv-demo
VENV_TEST := .venv-test
SOURCES := pyproject.toml $(shell find kernels micro_app -type f) \
           $(wildcard tflm_zo/*.py tflm_zo/*/*.py)

.PHONY: demo test lint fuzz format clean

# `pytest`, not `python -m pytest`: the latter would put the source tree before the installed package.
# An installed copy, not an editable one: the demo and the tests see what a user's `pip install` gives.
$(VENV_DEMO)/installed: $(SOURCES)
	test -d $(VENV_DEMO) || $(PYTHON) -m venv $(VENV_DEMO)
	$(VENV_DEMO)/bin/pip install --quiet ".[demo]"
	touch $@

$(VENV_TEST)/installed: $(SOURCES)
	test -d $(VENV_TEST) || $(PYTHON) -m venv $(VENV_TEST)
	$(VENV_TEST)/bin/pip install --quiet ".[test,dev]"
	touch $@

demo: $(VENV_DEMO)/installed
	$(VENV_DEMO)/bin/tflm-zo demo

test: $(VENV_TEST)/installed lint
	$(VENV_TEST)/bin/pytest tests -n auto --dist worksteal

lint: $(VENV_TEST)/installed
	$(VENV_TEST)/bin/ruff check tflm_zo tests tools
	$(VENV_TEST)/bin/ruff format --check tflm_zo tests tools
	$(VENV_TEST)/bin/mypy
	find kernels micro_app tests -name '*.cc' -o -name '*.h' -o -name '*.ino' | xargs $(VENV_TEST)/bin/clang-format --dry-run -Werror

# Needs cmake and clang with its runtime (Debian: clang libclang-rt-14-dev). `make test` has a short run without clang.
FUZZ_RUNS ?= 200000
fuzz: $(VENV_TEST)/installed
	cmake -S tests/cpp/fuzz -B build/fuzz -DCMAKE_CXX_COMPILER=clang++ -DLIBFUZZER=ON
	cmake --build build/fuzz
	$(VENV_TEST)/bin/python tests/fuzz_corpus.py build/fuzz/corpus
	build/fuzz/fuzz_ops -runs=$(FUZZ_RUNS) -timeout=10 -max_len=4096 -rss_limit_mb=512 build/fuzz/corpus

format: $(VENV_TEST)/installed
	$(VENV_TEST)/bin/ruff check --fix tflm_zo tests tools
	$(VENV_TEST)/bin/ruff format tflm_zo tests tools
	find kernels micro_app tests -name '*.cc' -o -name '*.h' -o -name '*.ino' | xargs $(VENV_TEST)/bin/clang-format -i

clean:
	rm -rf $(VENV_DEMO) $(VENV_TEST) build dist demo_out
