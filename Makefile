# make demo   what pg_grace does, on a throwaway server
# make test   everything that CI runs
# make bench  the benchmarks; takes some minutes
# make format lint sql docs   while working on it

VENV ?= .venv
PYTHON = $(VENV)/bin/python

.PHONY: demo test bench lint format sql docs setup

demo:
	@manage/setup.sh $(VENV) demo
	@$(VENV)/bin/pg_grace demo

setup:
	@manage/setup.sh $(VENV) test

test: setup lint
	@$(PYTHON) -m pytest -n $(shell expr $$(nproc) + 1) --dist loadfile --no-loadscope-reorder

bench: setup
	@$(PYTHON) -m benchmarks

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/sqlfluff lint --disable-progress-bar -q sql migrations

format: setup
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/sqlfluff fix sql migrations

sql: setup
	@$(VENV)/bin/pg_grace install --sql > sql/install.sql

docs: setup
	@$(PYTHON) -m docs.generate
	@$(PYTHON) -m tests.documentation README.md
