# Everything a developer runs. `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check format proto sim sim-agent sim-table sim-wide faults bench bench-check clean

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY)  ## the main job: three members, six agents, a bad version, a dead leader
	@$(BIN)/python -m examples.demo

test: $(READY)  ## everything but the long forms of make sim, make faults and make bench
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(READY)  ## format, lint, types, import rules, generated-code drift
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/proto.py --check

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(READY)  ## write registry/v1 from proto/
	$(BIN)/python scripts/proto.py

sim: $(READY)  ## fresh seeds: SEEDS=N VOTERS=N JOBS=N; SEED=N VOTERS=N replays one with its whole trace
	$(BIN)/python -m tests.simulation.run $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(VOTERS),--voters $(VOTERS)) $(if $(JOBS),--jobs $(JOBS))

sim-agent: $(READY)  ## fresh seeds of the edge agent: SEEDS=N JOBS=N; SEED=N replays one with its whole trace
	$(BIN)/python -m tests.simulation.agent.run $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(JOBS),--jobs $(JOBS))

sim-table: $(READY)  ## PySyncObj as shipped and under the guards, in the same network: SEEDS=N JOBS=N
	$(BIN)/python -m tests.simulation.table $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS))

sim-wide: $(READY)  ## an hour of three voters far apart
	$(BIN)/python -m tests.simulation.wide_area

faults: $(READY)  ## kill -9, pauses, partitions, power loss, full disks; REGISTRY_FAULTS_S=seconds of random faults
	REGISTRY_FAULTS=full $(BIN)/python -m pytest tests/faults tests/integration/test_repair.py \
		tests/integration/test_content_lives.py tests/integration/test_dify_corpus.py

bench: $(READY)
	$(BIN)/python -m bench

bench-check: $(READY)  ## two minutes: a few ratios beside the newest in bench/results.jsonl
	$(BIN)/python -m bench --check

clean:
	rm -rf $(VENV)
