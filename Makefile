# `make` says what there is; `make reproduce` draws the oscillator figure, `make test` runs the tests; both set up .venv first.
PYTHON ?= python3
PY := .venv/bin/python
SECONDS_EACH ?= 60
MARKERS ?= not slow

.PHONY: help reproduce test

help:
	@echo "make reproduce   trains Adam, Gauss-Newton and HIG on the oscillators, $(SECONDS_EACH) s each, and draws the figure"
	@echo "make test        runs the tests, but for the slow ones; make test MARKERS= runs all of them"
	@echo "make .venv       only sets up .venv, which the others do first; PYTHON=python3.12 names the Python to take"

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 to 3.13 is needed, but $(PYTHON) is %d.%d; name another one: make PYTHON=python3.11" % sys.version_info[:2] if not (3, 10) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv: .venv/installed

reproduce: .venv/installed
	$(PY) Nonlinear_Oscillators/submit_Adam.py --max-time $(SECONDS_EACH)
	$(PY) Nonlinear_Oscillators/submit_GN.py --max-time $(SECONDS_EACH) || test $$? -eq 3  # diverged: a result, too
	$(PY) Nonlinear_Oscillators/submit_HIG.py --max-time $(SECONDS_EACH)
	$(PY) plot.py Nonlinear_Oscillators

test: .venv/installed
	$(PY) -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder -m "$(MARKERS)"
