# `make` lists the targets. `make demo` and `make test` need Python 3.11 with venv, and make; no root.
PYTHON ?= python3
SAMPLE ?= samples/tampered-6.1/image.kdump
CRASH_SAMPLE ?= samples/crash-6.1-vma-file/image.kdump
# What `make samples` is made from, and where images of whole guests lie.
SAMPLE_IMAGES ?= debian-5.10 debian-6.1 debian-6.1-la57 debian-6.1-crash debian-6.12 debian-7.3 \
	debian-5.10-hung debian-6.1-vma-file debian-7.3-pte-flipped debian-6.1-work5-live-20s-3
IMAGES ?= build/images
BENCH_IMAGES ?= bench-2g-5.10 bench-2g-x2 bench-2g-x4 bench-touched-1g bench-touched-2g bench-touched-4g bench-touched-8g bench-touched-2g-kdump bench-shared-40 bench-shared-400 bench-128g
# Arguments of pytest and of bench/run.py, say: make test PYTEST_ARGS='-n 0 -k maple', make bench BENCH_ARGS=--update
PYTEST_ARGS ?= -n logical --maxprocesses 4 --dist loadscope
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
MAKE_IMAGES = $(BIN)/python samples/recipe/make_images.py --out $(IMAGES)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-crash test test-fast coverage lint types docs rules smear complaints members house man samples bench-image \
	bench-images bench fleet-trial clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(STAMP) ## create .venv with the package in editable mode and all it needs

demo: $(STAMP) ## report on a bundled image of a real kernel that was tampered with
	$(BIN)/vmaforensics report $(SAMPLE)

demo-crash: $(STAMP) ## say why a real kernel died, on a bundled dump of it
	$(BIN)/vmaforensics crash $(CRASH_SAMPLE)

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(STAMP) ## the tests that need neither an image of a whole kernel nor a program of its own: under two minutes
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not image"

coverage: $(STAMP) ## run the tests and show which lines and branches of the engine they reach
	$(BIN)/python -m pytest $(PYTEST_ARGS) --cov --cov-report=term:skip-covered

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

docs: $(STAMP) ## the documentation as a site, in build/docs
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs
	@echo "build/docs/index.html"

rules: $(STAMP) ## the page of the rules, from the rules themselves
	$(BIN)/python docs/rules/make_rules.py > docs/rules/README.md

complaints: $(STAMP) ## the page of what the kernel complains of, from what crash says of it
	$(BIN)/python docs/complaints/make_complaints.py > docs/complaints/README.md

members: $(STAMP) ## the table of the members that each view needs, in docs/kernels.md
	$(BIN)/python docs/make_members.py

house: $(STAMP) ## the picture of the rooms, from the code
	$(BIN)/python docs/house/make_house.py > docs/images/house.svg

smear: $(STAMP) ## the picture of an acquisition, as a report draws it
	$(BIN)/python docs/smear/make_smear.py > docs/images/smear.svg

man: $(STAMP) ## the manual page, from the parser of the command
	$(BIN)/python docs/man/make_man.py > docs/man/vmaforensics.1

samples: $(STAMP) $(SAMPLE_IMAGES:%=$(IMAGES)/%.json) ## make the bundled images anew (downloads kernels, needs QEMU)
	$(BIN)/python samples/recipe/make_samples.py --images $(IMAGES)

bench-image: $(IMAGES)/bench-2g.json ## make the 2 GiB image for measuring (downloads a kernel, needs QEMU)

bench-images: bench-image $(BENCH_IMAGES:%=$(IMAGES)/%.json) ## larger and older ones too (26 GB)

bench: $(STAMP) $(IMAGES)/bench-2g.json ## measure time and memory on the images for measuring
	$(BIN)/python bench/run.py --images $(IMAGES) $(BENCH_ARGS)

fleet-trial: $(STAMP) ## two hundred images on a cluster that is disturbed twice (1.6 GB of disk, about half an hour on two cores)
	$(BIN)/python -m tests.fleet.trial --folder build/fleet

clean: ## remove .venv and caches, not the images
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find vmaforensics plugins tests samples bench -name __pycache__ -type d -prune -exec rm -rf {} +

# The manifest is written last: an image that has one is finished.
$(IMAGES)/%.json: | $(STAMP)
	$(MAKE_IMAGES) $*

$(IMAGES)/debian-6.1-work5-live-20s-3.json: | $(STAMP)
	$(BIN)/python samples/recipe/make_work.py 6.1 --seed 5 --loads all --snapshots 3 --packed --hide --live 20 --out $(IMAGES)

$(IMAGES)/bench-2g-x2.json: | $(STAMP)
	$(MAKE_IMAGES) --bench --scale 2 --mib 600

$(IMAGES)/bench-2g-x4.json: | $(STAMP)
	$(MAKE_IMAGES) --bench --scale 4 --mib 1200

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
	    { echo "$(PYTHON) not found; install python3 and python3-venv, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV); this takes about a minute the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[test,dev]'
	@touch $@
