# longrl: `make pipeline` runs the whole DAG, `make test` the tests. Each sets up all it needs in .venv first.

RECIPE ?= tiny
VIDEOS ?=
SEED ?=
WAREHOUSE ?= warehouse
TEACHER ?=
SET ?=
PYTHON ?= python3
NAME ?=
ARGS ?=
DRY_RUN ?=
PROMPTS ?=
REDO ?= all
DATASET ?=
FORMAT ?=
OUT ?=
RUNNER ?=
PORT ?= 4200
STAGE ?=
VIDEO ?=
UPSTREAM ?=
GPUS ?= 1
GPU_GIB ?= 80
FRAMES ?=
BENCHMARK ?=
DATA ?=
MODEL ?=
ENGINE ?=
RUN ?=

BIN := .venv/bin
PY := $(BIN)/python
export VIRTUAL_ENV := $(CURDIR)/.venv
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export HF_HUB_OFFLINE ?= 1

ARGUMENTS = --recipe "$(RECIPE)" --warehouse "$(WAREHOUSE)" $(if $(VIDEOS),--videos "$(VIDEOS)") \
  $(if $(SEED),--seed $(SEED)) $(if $(TEACHER),--teacher $(TEACHER)) $(if $(RUNNER),--runner $(RUNNER)) \
  $(if $(DATASET),--dataset "$(DATASET)") $(if $(FORMAT),--format $(FORMAT)) $(foreach s,$(SET),--set $(s))

QUIZ = --benchmark "$(BENCHMARK)" --data "$(DATA)" $(if $(MODEL),--model "$(MODEL)") $(if $(ENGINE),--engine $(ENGINE)) \
  $(if $(FRAMES),--frames "$(FRAMES)") $(if $(filter command,$(firstword $(origin REDO))),--redo "$(REDO)")

.DEFAULT_GOAL := help
.PHONY: help setup pipeline dataset train evaluate generate-rl rerun ui export config doctor logs plan test test-all bench lint format docs lock clean

help: ## list the targets and the variables they take
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo
	@echo "  RECIPE=tiny        a name from longrl/recipes      VIDEOS=/path   your own files instead of rendered stories"
	@echo "  SEED=0             corpus, splits and training     WAREHOUSE=dir  where artifacts go"
	@echo "  TEACHER=measured   or openai                       SET='rl.steps=80 sft.ranks=1'  any setting"
	@echo "  DATASET=path       questions written elsewhere     FORMAT=llava   huggingface, llava, longvideo-reason, video-r1"
	@echo "  RUN=name           a run's name or id, for logs    STAGE=caption  one stage, for rerun and doctor"
	@echo "  PORT=4200          of make ui's server             PREFECT_HOME=dir  where its database and logs go"
	@echo "  RUNNER=prefect     or ray                          GPUS=8 GPU_GIB=80 FRAMES=512  what make plan reckons with"
	@echo "  BENCHMARK=videomme one of longrl/evaluation/benchmarks  DATA=folder  its publisher's files"
	@echo "  MODEL=rl           or base, sft, a Hugging Face folder, openai:<model> (SET='benchmark.server.base_url=...')"
	@echo "  PROMPTS=file       what generators draw, one prompt a line"
	@echo "  ENGINE=vllm        or transformers                 FRAMES='8 16 32'  frame budgets of a benchmark"

setup: .venv/ready ## create .venv from requirements.lock (done by every other target when needed)

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "longrl needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "installing the packages of requirements.lock into .venv"
	@$(BIN)/uv pip sync --quiet requirements.lock
	@$(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

pipeline: setup ## run the whole DAG: videos -> clips -> captions -> questions -> dataset -> SFT -> RL -> evaluation -> report
	@$(PY) -m flows pipeline $(ARGUMENTS)

dataset: setup ## run the data half only; with DRY_RUN=1 say what the teachers will cost, and stop
	@$(PY) -m flows dataset $(ARGUMENTS) $(if $(DRY_RUN),--estimate)

train: setup ## run up to the RL checkpoint
	@$(PY) -m flows train $(ARGUMENTS)

evaluate: setup ## run up to the evaluation; with BENCHMARK=videomme DATA=folder have MODEL answer that instead
	@$(PY) -m $(if $(BENCHMARK),flows benchmark $(QUIZ),flows evaluate) $(ARGUMENTS)

generate-rl: setup ## RL for a generator: make generate-rl RECIPE=tiny-image|tiny-video|sd3.5-medium|wan2.1-1.3b [MODEL=folder]
	@$(PY) -m flows.generate --recipe "$(if $(filter tiny,$(RECIPE)),tiny-image,$(RECIPE))" --warehouse "$(WAREHOUSE)" \
	  $(if $(SEED),--seed $(SEED)) $(if $(MODEL),--model "$(MODEL)") $(if $(PROMPTS),--prompts "$(PROMPTS)") \
	  $(foreach s,$(SET),--set $(s)) $(if $(DRY_RUN),--dry-run)

rerun: setup ## compute one stage anew: make rerun STAGE=caption [VIDEO=id] [REDO=rejects] [UPSTREAM=segment/key]
	@$(PY) -m flows stage $(ARGUMENTS) --stage "$(STAGE)" --redo "$(REDO)" $(if $(VIDEO),--video "$(VIDEO)") \
	  $(if $(UPSTREAM),--upstream "$(UPSTREAM)")

ui: setup ## start a Prefect server, a worker and all deployments: run, schedule and watch in the browser; Ctrl-C ends it
	@$(PY) -m deployments.ui --port "$(PORT)" $(ARGUMENTS)

export: setup ## write the newest dataset for others: make export FORMAT=huggingface OUT=folder
	@$(BIN)/longrl export "$(FORMAT)" "$(OUT)" --warehouse "$(WAREHOUSE)"

config: setup ## print the resolved configuration and stop
	@$(PY) -m flows pipeline $(ARGUMENTS) --dry-run

doctor: setup ## say whether this machine, the servers and folders are fit for RECIPE=… SET=…, with remedies
	@$(PY) -m flows.doctor $(ARGUMENTS) $(if $(STAGE),--stage "$(STAGE)")

logs: setup ## print the logs of a run (RUN=its id or a part of its name; else the newest), and follow it to its end
	@$(PY) -m flows logs $(if $(RUN),--run "$(RUN)") $(ARGS)

plan: setup ## predict memory and seconds of an RL step: make plan RECIPE=qwen2.5-vl-7b GPUS=8 FRAMES=512
	@$(BIN)/longrl plan --recipe "$(RECIPE)" --gpus "$(GPUS)" --gpu-gib "$(GPU_GIB)" $(if $(FRAMES),--frames $(FRAMES)) \
	  $(foreach s,$(SET),--set $(s)) $(ARGS)

test: setup ## run the tests
	@$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

test-all: setup ## run every test, also the slow ones
	@$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu"

bench: setup ## measure one thing: make bench NAME=decode; results go to benchmarks/results
	@$(PY) -m benchmarks.harness $(NAME) $(ARGS)

lint: setup ## check formatting, style and types
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

format: setup ## format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

docs: setup ## write docs/configuration.md from the settings, and the figures of benchmarks/README.md
	@$(PY) -m docs.generate

lock: setup ## resolve pyproject.toml into requirements.lock anew
	@$(BIN)/uv pip compile pyproject.toml --extra cpu --extra ray --extra dev --no-header --no-annotate --quiet --output-file requirements.lock

clean: ## delete caches, but neither .venv nor the warehouse
	@rm -rf .mypy_cache .ruff_cache .pytest_cache && find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
