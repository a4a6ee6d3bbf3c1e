# Two commands for a stranger: `make demo` and `make test`. `make help` lists the rest.
# Everything lives outside the checkout: caches in $(CACHE), the cluster in /var/lib/finetune-localcluster.

PYTHON ?= python3
# local boots a cluster on this machine; current uses the current kubectl context; IMAGES then names a JSON file:
# {"operator": "repository@sha256:…", "trainer": …, "seaweedfs": …}.
CLUSTER ?= local
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/finetune-operator
VENV := $(CACHE)/venv-$(shell sha256sum requirements/dev.txt | cut -c1-12)
PY := $(VENV)/bin/python
VLLM := $(CACHE)/vllm-$(shell sha256sum requirements/vllm.txt | cut -c1-12)
MLFLOW := $(CACHE)/mlflow-$(shell sha256sum requirements/mlflow.txt | cut -c1-12)
UV_HOME := $(CACHE)/uv-$(shell sha256sum requirements/uv.txt | cut -c1-12)
UV := $(UV_HOME)/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-annotate --custom-compile-command "make locks"
export PYTHONPATH := operator:trainer_image:.
# Some machines forbid it; then every process of the tests compiles torch and transformers anew, for half a minute.
export PYTHONDONTWRITEBYTECODE :=

ifeq ($(CLUSTER),local)
ON_CLUSTER = eval "$$($(PYTHON) -m localcluster env)" &&
endif

.PHONY: help venv locks verify unit vllm mlflow contract gpu cluster images install apiserver e2e demo demo-down kubeconfig test

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

venv: $(VENV)/complete  ## the development environment, keyed by its lock
	@echo $(VENV)

$(VENV)/complete: | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements/dev.txt
	touch $@

$(UV):
	$(PYTHON) -m pip --version >/dev/null || { apt-get update -qq && apt-get install -y -qq python3-pip; }
	$(PYTHON) -m pip install --quiet --root-user-action ignore --require-hashes --target $(UV_HOME) -r requirements/uv.txt

verify: venv  ## format, lint, types, layers, unit tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m pytest -n 2 tests/unit tests/test_*.py

unit: venv  ## unit tests
	$(PY) -m pytest tests/unit

locks: | $(UV)  ## compile the locks anew from pyproject.toml
	for extra in operator trainer; do \
	  $(COMPILE) pyproject.toml --extra $$extra --python-version 3.13 -o requirements/$$extra.txt; done
	$(COMPILE) --no-deps requirements/vllm.in --python-version 3.11 -o requirements/vllm.txt
	$(COMPILE) --no-deps requirements/mlflow.in --python-version 3.11 -o requirements/mlflow.txt
	$(COMPILE) requirements/seaweedfs.in --python-version 3.13 -o requirements/seaweedfs.txt
	$(COMPILE) requirements/uv.in --python-version 3.11 -o requirements/uv.txt
	$(COMPILE) pyproject.toml --all-extras --group dev --python-version 3.11 -o requirements/dev.txt

vllm: $(VLLM)/complete  ## vLLM, of which tests ask what it thinks of our adapters; 130 MB

$(VLLM)/complete: | venv
	$(UV) pip install --quiet --no-deps --require-hashes --python $(PY) --target $(VLLM) -r requirements/vllm.txt
	touch $@

mlflow: $(MLFLOW)/complete  ## a tracking server of MLflow, to which tests send; 20 MB

$(MLFLOW)/complete: | venv
	$(UV) pip install --quiet --no-deps --require-hashes --python $(PY) --target $(MLFLOW) -r requirements/mlflow.txt
	touch $@

contract: venv  ## tests with a real S3 server and the real libraries, no cluster
	-$(MAKE) --no-print-directory -k vllm mlflow  # where one cannot be had, its tests are skipped and say so
	$(PY) -m pytest -m contract -n 3 --dist worksteal tests/contract  # more than cores: some wait for a store that is away

gpu: venv  ## tests on a machine with a GPU
	$(PY) -m pytest -m gpu tests/contract

cluster:  ## bring the local cluster up, or back into shape
ifeq ($(CLUSTER),local)
	$(PYTHON) -m localcluster up
endif

images: cluster  ## build and push the images
ifeq ($(CLUSTER),local)
	$(PYTHON) -m localcluster images >/dev/null
endif

install: venv images  ## install the chart with the quick-start object store
	$(ON_CLUSTER) $(PY) -m demo --images "$$IMAGES" --install-only

LONGEST := tests/apiserver/test_operator.py tests/apiserver/test_pod_faults.py
apiserver: install  ## tests on the real API server
	$(ON_CLUSTER) $(PY) -m pytest -m apiserver -n 3 --dist loadfile --no-loadscope-reorder $(LONGEST) \
	  $(filter-out $(LONGEST),$(wildcard tests/apiserver/test_*.py)) tests/test_chart.py tests/test_readme.py

e2e: install  ## tests of the whole on the cluster
	$(ON_CLUSTER) $(PY) -m pytest -m "e2e and not disruptive" -n 3 --dist loadfile --no-loadscope-reorder tests/e2e
	$(ON_CLUSTER) $(PY) -m pytest -m "e2e and disruptive" tests/e2e

demo: venv images  ## the main job on real input; the cluster stays up
	$(ON_CLUSTER) $(PY) -m demo --images "$$IMAGES"

demo-down:  ## take the local cluster down and leave nothing behind
	$(PYTHON) -m localcluster down

kubeconfig:  ## print the path of the local cluster's kubeconfig
	@$(PYTHON) -m localcluster kubeconfig

test: verify contract apiserver demo e2e  ## everything, in the order of its cost
