# make demo             set everything up, then label a clip with a face and a voice
# make demo CLIP=my.mp4 the same with your own file
# make test             set everything up and run the tests
# make check            lint, types, and the rules about which room may import which
# make pyfeat           py-feat in an environment of its own ($(VENV_PYFEAT), 6 GB), for --face-backend py-feat
#
# Needs Python 3.11 and pip; everything else goes into $(VENV) and the user cache.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VENV_PYFEAT ?= .venv-pyfeat
READY_PYFEAT := $(VENV_PYFEAT)/.ready
HEADLESS_OPENCV := opencv-contrib-python-headless

export CLIP
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two cores do the work of two: nested thread pools only get in each other's way.
export OMP_NUM_THREADS ?= 1
# Where `make pyfeat` has run, tests and commands use it.
export LAMB_PYFEAT_PYTHON ?= $(if $(wildcard $(READY_PYFEAT)),$(abspath $(VENV_PYFEAT))/bin/python)

.PHONY: setup pyfeat demo test check format clean

define EXPECT_3_11
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
  || { echo "lamb: expected Python 3.11 but $(PYTHON) is $$($(PYTHON) --version 2>&1); set PYTHON=/path/to/python3.11" >&2; exit 2; }
endef

# Debian without python3-venv has no ensurepip: then pip itself is put into a bare environment.
define new_environment
$(PYTHON) -m venv --clear $(1) >/dev/null 2>&1 \
  || { $(PYTHON) -m venv --clear --without-pip $(1) && $(PYTHON) -m pip --python $(1)/bin/python install --quiet pip; }
endef

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(EXPECT_3_11)
	$(call new_environment,$(VENV))
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,ray]'
	@# The OpenCV that mediapipe depends on links against libGL; where that is missing, its twin without windows goes over it.
	@$(BIN)/python -c 'import cv2' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --force-reinstall --no-deps -c constraints.txt $(HEADLESS_OPENCV)
	$(BIN)/lamb weights fetch
	@touch $@

pyfeat: $(READY_PYFEAT)

$(READY_PYFEAT): requirements-pyfeat.txt
	$(EXPECT_3_11)
	$(call new_environment,$(VENV_PYFEAT))
	$(VENV_PYFEAT)/bin/python -m pip install --quiet --no-deps --no-compile -r requirements-pyfeat.txt
	$(VENV_PYFEAT)/bin/python -I extractors/facial/pyfeat_worker.py --where
	@touch $@
	@echo "Now: export LAMB_PYFEAT_PYTHON=$(abspath $(VENV_PYFEAT))/bin/python"

demo: $(READY)
	@if [ -z "$$CLIP" ]; then CLIP="$$($(BIN)/lamb demo --output demo)" || exit; fi; \
	  $(BIN)/lamb predict -- "$$CLIP"

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadgroup

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV_PYFEAT) demo build dist
