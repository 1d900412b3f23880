# gate-cache: `make help` lists what there is. Every target makes and uses .venv by itself.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON  ?= python3
DATASET ?= toyworld
HEAD    ?=
SWEEP   ?= gammas
JOBS    ?= 2
DATA    ?= $(or $(GATE_CACHE_DATA),data)
MODELS  ?= $(or $(GATE_CACHE_MODELS),models)
STORES  ?= $(or $(GATE_CACHE_STORES),stores)
RUNS    ?= $(or $(GATE_CACHE_RUNS),runs)
ARGS    ?=

BIN      := .venv/bin
GATE     := $(BIN)/gate-cache
MANIFEST := manifests/$(DATASET).yaml
ROOTS    := --data "$(DATA)" --stores "$(STORES)"

.PHONY: help setup demo extract probe train sweep show view plan status verify paper lora caption tiny test test-long test-slow test-device check dist docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo
	@echo 'variables: DATASET=toyworld|pf-willow|folder|…  HEAD=nn|conv|upernet|pixel-mlp|classifier  DATA=  MODELS=  STORES=  RUNS='
	@echo '           ARGS="…" is handed to gate-cache as it is'

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("gate-cache needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; say make PYTHON=python3.11") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: .venv/.ready  ## make .venv with the tested versions

demo: .venv/.ready  ## extract toyworld, train on it, print the table
	$(GATE) plan manifests/toyworld.yaml --stores "$(STORES)"
	$(GATE) extract manifests/toyworld.yaml --stores "$(STORES)"
	$(GATE) train manifests/toyworld.yaml --stores "$(STORES)" --runs "$(RUNS)" --head nn

plan: .venv/.ready  ## what extracting DATASET would cost
	$(GATE) plan $(MANIFEST) $(ROOTS) --models "$(MODELS)" $(ARGS)

extract: .venv/.ready  ## stage 1 for DATASET: all that is missing in its store
	$(GATE) extract $(MANIFEST) $(ROOTS) --models "$(MODELS)" $(ARGS)

status: .venv/.ready  ## what of DATASET is done, missing or stale
	$(GATE) status $(MANIFEST) $(ROOTS) --models "$(MODELS)" $(ARGS)

verify: .venv/.ready  ## DATASET's store against its checksums; ARGS=--repair mends
	$(GATE) verify $(MANIFEST) $(ROOTS) --models "$(MODELS)" $(ARGS)

probe: .venv/.ready  ## which features of DATASET are worth a training, in a minute
	$(GATE) probe $(MANIFEST) $(ROOTS) --models "$(MODELS)" $(ARGS)

train: .venv/.ready  ## stage 2 for DATASET with HEAD
	$(GATE) train $(MANIFEST) $(ROOTS) --models "$(MODELS)" --runs "$(RUNS)" $(if $(HEAD),--head $(HEAD)) $(ARGS)

sweep: .venv/.ready  ## stage 2 for DATASET, all trials of manifests/sweeps/SWEEP.yaml
	$(GATE) sweep $(MANIFEST) manifests/sweeps/$(SWEEP).yaml $(ROOTS) --models "$(MODELS)" --runs "$(RUNS)" $(ARGS)

show: .venv/.ready  ## pictures of DATASET's maps
	$(GATE) show $(MANIFEST) $(ROOTS) --models "$(MODELS)" $(ARGS)

view: .venv/.ready  ## look into DATASET's store with a browser; ARGS="--run runs/RUN"
	$(GATE) view $(MANIFEST) $(ROOTS) --models "$(MODELS)" $(ARGS)

paper: .venv/.ready  ## every result of the paper on toyworld and tiny, one report
	$(BIN)/python -m pipelines.paper --stores "$(STORES)" --runs "$(RUNS)" $(ARGS)

lora: .venv/.ready  ## train a LoRA on images of DATASET, for its model
	$(GATE) lora $(MANIFEST) $(ROOTS) --models "$(MODELS)" $(ARGS)

caption: .venv/.ready  ## write a caption for every image of DATASET
	$(GATE) caption $(MANIFEST) $(ROOTS) --models "$(MODELS)" $(ARGS)

tiny: .venv/.ready  ## train the embedded model anew; hours, needs CIFAR-10 below DATA
	$(BIN)/python -m pipelines.tiny all --cifar "$(DATA)/cifar-10-images.zip" $(ARGS)

test: .venv/.ready  ## the tests, in JOBS processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(ARGS)

test-long: .venv/.ready  ## what CI runs besides: further inputs of each kind, several seconds each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m 'long and not slow' $(ARGS)

test-slow: .venv/.ready  ## the tests that take minutes or gigabytes
	$(BIN)/python -m pytest -q -m slow -o faulthandler_timeout=10800 $(ARGS)

test-device: .venv/.ready  ## both stages on a pretended GPU (part of `make test` and `make test-long`)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m 'not slow' tests/test_device.py tests/test_device_training.py $(ARGS)

check: .venv/.ready  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/mypy

dist: .venv/.ready  ## build wheel and sdist into dist/, and try the wheel in an empty environment
	PYTHON="$(PYTHON)" .ci/dist

clean:  ## remove .venv and caches; stores and runs stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

docs: .venv/.ready  ## build the site of the docs: docs/_build/html/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html
