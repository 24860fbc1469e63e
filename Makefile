# The two commands that matter: `make quickstart` and `make test`. PYTHON chooses the interpreter of a new .venv.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
# One thread a process: the tests share the cores by processes.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
NOTEBOOKS ?= notebooks/*.ipynb
# Where the shell forbids bytecode, every process would compile all of torch anew.
unexport PYTHONDONTWRITEBYTECODE
comma := ,

# What is about speed; the other benchmarks train for long and are run by name.
SPEED := data_windows memory_20m_steps environment_speed bicycle_speed decision_transformer_training \
	decision_transformer_rollout compiled_acting trajectory_transformer_training trajectory_transformer_planning seq2seq_complexity

.PHONY: quickstart install test test-slow test-envpool test-faults test-transformers test-newest test-oldest smoke-newest smoke-oldest release-check lock bench notebooks docs \
	lint format clean
.DEFAULT_GOAL := quickstart

# A stamp records what was installed; it is as old as the files that say what to install.
BASE := $(VENV)/.installed-base
DEV := $(VENV)/.installed-dev
EXTRAS := dev,docs,mujoco,minari,demo,lora,excel,serve,onnx,ray
PINNED := $(EXTRAS),release,envpool

# Every version comes from the lock, also that of the build backend. Modules are compiled when they are first imported:
# compiling all of torch at installation takes longer than using it.
LOCKED := requirements/locked.txt
PIP_INSTALL := pip install --quiet --quiet --no-compile
INSTALL_LOCKED := $(BIN)/python -m $(PIP_INSTALL) --constraint $(LOCKED)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BASE): pyproject.toml $(LOCKED) | $(BIN)/python
	@echo "Installing hf_seqrl into $(VENV) (once) ..."
	$(INSTALL_LOCKED) setuptools
	$(INSTALL_LOCKED) --no-build-isolation --editable .
	@touch $@

$(DEV): pyproject.toml $(LOCKED) | $(BIN)/python
	@echo "Installing hf_seqrl and what its tests need into $(VENV) (once) ..."
	$(INSTALL_LOCKED) setuptools
	$(INSTALL_LOCKED) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $(BASE) $@

quickstart: $(BASE)
	$(BIN)/hf-seqrl quickstart

install: $(DEV)

test: $(DEV)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -r fEs --durations 15

test-slow: $(DEV)
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist worksteal -r fEs --durations 15
	$(MAKE) test-transformers

# transformers' own tests of a model, on all of ours. They come from its sdist; TRANSFORMERS_SOURCE names a checkout instead.
test-transformers: $(DEV)
	$(ONE_THREAD) $(BIN)/python tests/transformers_common/run.py

# EnvPool itself, 0.8 GB with its assets.
test-envpool: $(DEV)
	$(INSTALL_LOCKED) --no-build-isolation --editable '.[envpool]'
	$(ONE_THREAD) $(BIN)/python -m pytest -m envpool -r fEs

# Kills saving, converting, collecting and training at each write event, and lets each one fail; prints what was left.
test-faults: $(DEV)
	$(ONE_THREAD) HF_HUB_OFFLINE=1 $(BIN)/python tests/faults/campaign.py

# The two ends of the ranges in pyproject.toml, each in an environment of its own. torch, by far the largest package, is
# taken from $(VENV), so both ends are tried with the locked torch.
NEWEST := .venv-newest
OLDEST := .venv-oldest
share_torch = $(PYTHON) -m venv $(1) && $(BIN)/python requirements/share_torch.py $(1)/bin/python

newest-with-%: | $(BASE)
	@echo "Installing the newest versions into $(NEWEST) ..."
	test -d $(NEWEST) || ($(call share_torch,$(NEWEST)))
	$(NEWEST)/bin/python -m $(PIP_INSTALL) --upgrade --upgrade-strategy eager torch==$(TORCH) setuptools
	$(NEWEST)/bin/python -m $(PIP_INSTALL) --upgrade --upgrade-strategy eager torch==$(TORCH) \
		--no-build-isolation --editable '.[$*]'

oldest-with-%: | $(BASE)
	@echo "Installing the oldest versions into $(OLDEST) ..."
	test -d $(OLDEST) || ($(call share_torch,$(OLDEST)))
	$(OLDEST)/bin/python -m $(PIP_INSTALL) --constraint requirements/oldest.txt setuptools
	$(OLDEST)/bin/python -m $(PIP_INSTALL) --constraint requirements/oldest.txt --no-build-isolation --editable '.[$*]'

# Libraries of other versions warn of other things: here warnings are shown, and are no errors.
test-newest test-oldest: test-%: %-with-$(EXTRAS)
	$(ONE_THREAD) .venv-$*/bin/python -m pytest -W default -n $(WORKERS) --dist worksteal -r fEs

smoke-newest smoke-oldest: smoke-%: %-with-smoke
	$(ONE_THREAD) .venv-$*/bin/python -m pytest -W default -m smoke tests/test_smoke.py

# What a release would publish: both distributions, checked, and the wheel at work where the source tree is not.
RELEASE := .venv-release
TRIED := build/release

release-check: $(BASE)
	$(INSTALL_LOCKED) build twine
	rm -rf dist $(RELEASE) $(TRIED)
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(call share_torch,$(RELEASE))
	$(RELEASE)/bin/python -m $(PIP_INSTALL) --constraint $(LOCKED) dist/*.whl
	mkdir -p $(TRIED)
	cd $(TRIED) && $(abspath $(RELEASE))/bin/python -c \
		"import hf_seqrl, sys; sys.exit('site-packages' not in hf_seqrl.__file__)"
	cd $(TRIED) && $(abspath $(RELEASE))/bin/hf-seqrl quickstart --output_dir quick --num_steps 2000 --max_steps 20
	cd $(TRIED) && $(abspath $(RELEASE))/bin/hf-seqrl evaluate quick/agent --num_episodes 2 --video quick/film.mp4
	test -s $(TRIED)/quick/agent/replay.mp4 && test -s $(TRIED)/quick/film.mp4

# Resolves pyproject.toml anew, for every supported Python. torch stays where it is until TORCH is raised here: its builds
# are large. The CUDA libraries are left out: torch itself names the exact version of each, and its CPU builds need none.
TORCH := 2.13.0
NO_CUDA := grep -vE '^(nvidia|cuda|triton)[a-z0-9-]*=='
COMPILE := printf 'setuptools\ntorch==$(TORCH)\n' | .venv-lock/bin/uv pip compile pyproject.toml - --quiet --no-annotate \
	--custom-compile-command 'make lock' $(foreach extra,$(subst $(comma), ,$(PINNED)),--extra $(extra))

lock:
	test -d .venv-lock || $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --quiet --upgrade uv
	$(COMPILE) --universal --python-version 3.10 | $(NO_CUDA) > requirements/locked.txt
	$(COMPILE) --resolution lowest-direct --python-version 3.11 | $(NO_CUDA) > requirements/oldest.txt

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
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(NEWEST) $(OLDEST) $(RELEASE) .venv-lock build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .mypy_cache
