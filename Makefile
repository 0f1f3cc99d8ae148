# Each target makes .venv and installs what it needs. PYTHON names the interpreter (3.11 or later).
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
PYTEST := OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
SUITES := quickstart digits ablation reduced fast dd tdd frepo isa matching lowrank mtt edf

.PHONY: quickstart tour test test-all lint golden repro cost report ui clean

quickstart: .venv/installed ## ten distilled images, judged on three networks: a CPU, a minute
	dvc repro report@quickstart
	dvc repro --single-item index
	@python -m stages table quickstart
	@echo "next: make tour                       every method on the same digits, 5 minutes"
	@echo "      make cost                       what the papers' cells cost on this machine"
	@echo "      python -m stages list           all cells; show CELL says all of one"

tour: .venv/installed ## every method, and every stage, on the bundled digits: a CPU, minutes
	dvc repro report@digits
	dvc repro --single-item index
	@python -m stages table digits

lint: .venv/installed ## rules and format of the code, by ruff
	ruff check lib stages tests
	ruff format --check lib stages tests

test: .venv/installed ## all tests but the long ones, two files at a time
	$(PYTEST) -m "not long"

test-all: .venv/installed ## the long ones too: whole pipelines changed, killed, traced
	$(PYTEST)

golden: .venv/installed ## compare the numbers of toy-sized runs of everything with the stored ones: half a minute
	OMP_NUM_THREADS=1 python -m tests.golden

repro: .venv/installed cost ## every cell of every suite with the published settings: GPU-weeks
	dvc repro

cost: .venv/installed ## what each cell and its evaluations cost on this machine
	@for suite in $(SUITES); do python -m stages cost $$suite || exit 1; done

report: .venv/installed ## rebuild the page of all results and say where it is
	dvc repro --force --single-item index
	@echo "Report: $(CURDIR)/reports/index.html"

ui: .venv/installed ## MLflow's pages, for this machine alone
	mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1

clean: ## remove what can be computed or downloaded again; results in reports/ stay
	rm -rf .venv .checkpoints build data .dvc/cache .dvc/tmp mlflow.db* mlartifacts .tracking .pytest_cache .ruff_cache

.venv/installed: requirements.lock
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.lock
	touch $@
