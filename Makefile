# Needs python3 (3.10 or newer) and make; everything else is installed into .venv, once.
PYTHON ?= python3
JOBS ?= 2
DEMO ?= runs/demo

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Nothing is installed while something runs, and the settings of an Ultralytics that the user has stay as they are.
export YOLO_AUTOINSTALL := false
export YOLO_CONFIG_DIR := $(CURDIR)/$(VENV)/settings

.PHONY: demo test test-all lint claims tables clean

demo: $(STAMP)
	$(BIN)/yolo-compress demo project=$(DEMO)

# One thread in each worker: more of them only wait for each other. In the order of the folders, the long ones first: by
# the number of tests, a file of few that take long would come last, and keep one worker alone.
RUN := -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
test test-all: export OMP_NUM_THREADS := 1
test: $(STAMP)
	$(BIN)/python $(RUN)

# With the tests of tests/slow.txt, which repeat others for one more family, optimizer or runtime.
test-all: $(STAMP)
	$(BIN)/python $(RUN) --slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/yolo-compress list recipes

claims: $(STAMP)
	$(BIN)/python -m benchmarks.claims

tables: $(STAMP)
	$(BIN)/python -m benchmarks.tables

clean:
	rm -rf $(VENV) build *.egg-info

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[openvino,onnx,report,dev]'
	mkdir -p $(YOLO_CONFIG_DIR)
	touch $@
