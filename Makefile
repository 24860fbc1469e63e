# The two commands that matter: `make quickstart` and `make test`. PYTHON chooses the interpreter of a new .venv.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
# One thread a process: the tests share the cores by processes.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
NOTEBOOKS ?= notebooks/*.ipynb

# What is about speed; the other benchmarks train for long and are run by name.
SPEED := data_windows memory_20m_steps environment_speed bicycle_speed decision_transformer_training \
	decision_transformer_rollout trajectory_transformer_training trajectory_transformer_planning seq2seq_complexity

.PHONY: quickstart install test test-slow bench notebooks docs lint format clean
.DEFAULT_GOAL := quickstart

# A stamp remembers what was installed; it is as old as the files that say what to install.
BASE := $(VENV)/.installed-base
DEV := $(VENV)/.installed-dev

# Modules are compiled when they are first imported: compiling all of torch at installation takes longer than using it.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet --no-compile --constraint constraints.txt

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing hf_seqrl into $(VENV) (once) ..."
	$(PIP_INSTALL) --editable .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing hf_seqrl and what its tests need into $(VENV) (once) ..."
	$(PIP_INSTALL) --editable '.[dev,docs,mujoco,minari,video,demo]'
	@touch $(BASE) $@

quickstart: $(BASE)
	$(BIN)/hf-seqrl quickstart

install: $(DEV)

test: $(DEV)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -r fEs --durations 15

test-slow: $(DEV)
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist worksteal -r fEs --durations 15

bench: $(DEV)
	@for script in $(SPEED); do \
		echo "== $$script"; $(ONE_THREAD) $(BIN)/python benchmarks/$$script.py || exit 1; \
	done

# Runs the notebooks anew and keeps their outputs.
notebooks: $(DEV)
	@$(ONE_THREAD) $(BIN)/python notebooks/execute.py $(NOTEBOOKS)

# The documentation as a site, in `site/`; the tests build it, too.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
