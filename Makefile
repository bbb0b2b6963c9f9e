# Everything a user does, in words; `make` alone lists them. Told by the variables below, on the command line.
SHELL := bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
ACCEL ?= auto
TORCH_INDEX ?=
CONFIG ?=
SET ?=
RANKS ?=
DATA ?=
ENGINE ?= docker
BASE ?=

STAGES := prepare pretrain dump transfer retrieve select analyse report plan comparable experiment
# One process; the others run as RANKS, which launch.ranks starts. torchrun takes the same words and works too.
ALONE := prepare report plan comparable experiment

python := $(abspath $(VENV))/bin/python
present = $(strip $(foreach stage,$(STAGES),$(if $(wildcard launch/$(stage).py),$(stage))))
gpus = $(shell nvidia-smi -L 2>/dev/null | grep -c ^GPU)
cores = $(shell getconf _NPROCESSORS_ONLN)
ranks = $(or $(RANKS),$(shell echo $$(($(gpus) > 0 ? $(gpus) : $(cores) > 1 ? 2 : 1))))
on_ranks = $(python) -m launch.ranks --nproc-per-node $(ranks)
install := ACCEL='$(ACCEL)' PYTHON='$(PYTHON)' VENV='$(VENV)' TORCH_INDEX='$(TORCH_INDEX)' launch/install.sh

.PHONY: help install check test test-browser test-all demo fix clean image $(STAGES)

help:
	@echo "make install            the locked packages into $(VENV); ACCEL=cpu|gpu, PYTHON=, VENV=, TORCH_INDEX="
	@echo "make demo               the whole story on the simulator in minutes; DATA=<folder of real logs>"
	@echo "make check              lint, format, types, import directions"
	@echo "make test               unit, multi-rank and pipeline tests; make test-all adds slow and GPU ones"
	@echo "make test-browser       the report as a browser shows it; installs Debian's Chromium, or CHROMIUM=<program>"
	@echo "make fix                mend what lint and format can mend"
	@echo "make clean              remove caches, builds and $(VENV); never data or runs"
	@echo "make image              a container image; ACCEL=cpu|gpu, BASE=<image>, ENGINE=$(ENGINE)"
	@echo "make <stage> CONFIG=configs/<stage>/<name>.yaml SET=\"key=value ...\" RANKS=<processes>"
	@echo "                        stages: $(present)"
	@echo "make experiment CONFIG=configs/experiments/<name>.yaml DATA=<folder of real logs, where the experiment needs one>"

install:
	@$(install)

check: install
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(python) -m pyright --pythonpath $(python)
	@$(abspath $(VENV))/bin/lint-imports --no-logo

test: install
	@$(python) -m pytest

test-browser: install
	@CHROMIUM=$$(launch/chromium.sh) && CHROMIUM=$$CHROMIUM $(python) -m pytest -m browser tests/browser

test-all: install
	@CHROMIUM=$$(launch/chromium.sh) && CHROMIUM=$$CHROMIUM $(python) -m pytest -m ""

demo: install
	@DATA='$(DATA)' PYTHON='$(python)' launch/pipeline.sh

fix: install
	@$(python) -m ruff check --fix .
	@$(python) -m ruff format .

# The mistakes that need no environment come first, so that they cost no installation.
$(STAGES):
	@test -f launch/$@.py || { echo "error: stage $@ is not in this version; there is: $(present)" >&2; exit 2; }
	@test -n '$(CONFIG)' || { echo "error: make $@ needs CONFIG=<file>; there is: $(wildcard configs/$@/*.yaml configs/$@s/*.yaml)" >&2; exit 2; }
	@$(install)
	@$(if $(filter $@,$(ALONE)),$(python),$(on_ranks)) -m launch.$@ '$(CONFIG)' $(if $(DATA),$(if $(filter experiment,$@),'source=$(DATA)')) $(SET)

clean:
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .coverage
	@find $(wildcard lfm4ads launch data tests benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -f '$(VENV)/pyvenv.cfg' ]; then rm -rf '$(VENV)'; fi

image:
	@$(ENGINE) build --build-arg ACCEL=$(ACCEL:auto=cpu) $(if $(BASE),--build-arg BASE=$(BASE)) \
	$(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) --tag lfm4ads:$(ACCEL:auto=cpu) .
