# `make` is what a change must pass. Every target prepares the machine by itself; when nothing is missing that takes no time.
PY := .venv/bin/python
BIN := .venv/bin
CODE := fairlead services clients tests
BPF = $(shell find services/datapath/bpf -name '*.[ch]' -not -path '*/shim/*')
.PHONY: all setup fmt check generated test test-restart test-kernels lab lab-down bench bench-control bench-policy fuzz fuzz-packets lab-policy bench-datapath test-compose bench-docker fleet-simulation
.NOTPARALLEL:

all: check test

setup:  ## packages of the distribution, and .venv
	@scripts/setup.sh

fmt: setup  ## format all code
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix-only --quiet $(CODE)
	$(if $(BPF),$(BIN)/clang-format -i $(BPF))

check: setup generated  ## formats, lints, types, import rules, spelling
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/lint-imports
	$(if $(BPF),$(BIN)/clang-format --dry-run --Werror $(BPF))
	$(BIN)/codespell $(CODE) scripts docs *.md

generated: setup  ## documents that are made from the schema
	@if [ -e fairlead/contract.py ] || [ -d fairlead/contract ]; then $(PY) -m fairlead.contract --check; fi

test: setup  ## every test that this machine can run; says at its end what it could not
	$(PY) -m pytest -p tests.support.notrun

test-restart: setup  ## a thousand SIGKILLs under traffic, also amid moves of the maps; ARGS="--kills 60 --moves 40" for fewer
	$(PY) -m tests.restart $(ARGS)

test-kernels: setup  ## the programs on the kernels of Debian and Ubuntu, in virtual machines; ARGS="--only 6.1" for one of them
	$(PY) -m tests.kernels $(ARGS)

lab: setup  ## three nodes, two routers, the whole story; KEEP=1 leaves it running, ROUTING=vxlan or geneve, FAMILY=6, UNDERLAY=6
	$(PY) -m tests.lab $(if $(ROUTING),--routing $(ROUTING)) $(if $(FAMILY),--family $(FAMILY)) $(if $(UNDERLAY),--underlay $(UNDERLAY))

test-compose: setup  ## containers and compose stacks with a docker engine of its own; a hundred recreations; ENGINE=26.1 for Debian 13's
	FAIRLEAD_CONTAINERS=1 FAIRLEAD_RECREATIONS=100 $(if $(ENGINE),FAIRLEAD_ENGINE=$(ENGINE)) $(PY) -m pytest -p tests.support.notrun tests/docker

lab-down:  ## remove what a lab has left behind
	/usr/bin/python3 -m tests.lab.down

bench: setup bench-control bench-policy bench-datapath  ## all measurements

bench-control: setup  ## publish to realised, attach, memory
	$(PY) -m tests.bench.control

bench-datapath: setup  ## cost per packet, per connection and per change; ARGS="--only program" runs one part
	$(PY) -m tests.bench.datapath $(ARGS)

bench-docker: setup  ## docker run beside Docker's own bridge, labels to enforced, a hundred at once, memory
	$(PY) -m tests.bench.docker $(ARGS)

bench-policy: setup  ## full resolution, one change, churn, memory, and how they grow
	$(PY) -m tests.bench.policy

fleet-simulation: setup  ## at which rate a fleet starts that boots at once, or crashes again and again; ARGS="--nodes 300 2000"
	$(PY) -m tests.bench.fleet $(ARGS)

fuzz: setup  ## a million nearly right policies: nothing escapes, nothing is slow
	$(PY) -m tests.fuzz.policy

fuzz-packets: setup  ## a million packets through the real programs and through their twin; ARGS="--seed 2" for others
	$(PY) -m tests.fuzz.packets $(ARGS)

lab-policy: setup  ## well-known policies on real packets, each verdict compared with simulation
	$(PY) -m tests.lab.policy
