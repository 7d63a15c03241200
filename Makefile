.DEFAULT_GOAL := help
.PHONY: help setup demo lab test lint format bench wheel clean

export PATH := $(CURDIR)/.venv/bin:$(PATH)
python := .venv/bin/python
pytest_options ?= -n auto --dist loadgroup
benchmarks := call_latency map_throughput stream gateway_load lazy_import large_volume volume_io
torch_benchmarks := cold_start density session_wake

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 10

setup: ## Install what every other target needs
	@scripts/setup

demo: ## Run notebooks/quickstart.ipynb through a gateway and a host of its own
	@scripts/setup demo
	@$(python) -m scripts.demo $(demo_options)

lab: ## Open JupyterLab on the quickstart, with the gateway running
	@scripts/setup lab
	@$(python) -m scripts.lab

test: ## Run the tests (pytest_options='-m "not slow"' for the quick ones)
	@scripts/setup dev
	$(python) -m pytest $(pytest_options)

lint: ## Check style, types and who imports whom
	@scripts/setup dev
	ruff check .
	ruff format --check .
	scripts/typecheck
	scripts/lint-imports --no-logo
	npm run --silent lint
	npm --prefix labextension run --silent lint

format: ## Rewrite what the linters can rewrite
	@scripts/setup dev
	ruff check --fix .
	ruff format .
	npm run --silent format
	npm --prefix labextension run --silent lint:fix

bench: ## Measure Skylift beside Ray and ipyparallel
	@scripts/setup bench
	@for name in $(benchmarks); do $(python) -m benchmarks.$$name || exit 1; done
	@if $(python) -c 'import torch' 2>/dev/null; then \
	  for name in $(torch_benchmarks); do $(python) -m benchmarks.$$name || exit 1; done; \
	else echo "Left out, since PyTorch is not installed (.venv/bin/pip install -e '.[bench-torch]'): $(torch_benchmarks)"; fi

wheel: ## Build the wheel into dist/
	@scripts/setup dev
	$(python) -m build --wheel

clean: ## Remove what was built; .venv and node_modules stay
	rm -rf build dist skylift.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf labextension/lib skylift/lab/labextension
