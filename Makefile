# The same commands for people and CI. Each is a script, which also works where make is missing.
# Arguments for one: make test ARGS="-k topics"
.PHONY: help demo test test-unit test-integration test-all check docs bench bench-compare attack chaos fuzz simulate house test-arm deb test-deb test-image

help: ## list these commands
	@sed -n 's/^\([a-z-]*\): ## /\1 /p' Makefile | while read -r name text; do printf 'make %-17s %s\n' "$$name" "$$text"; done

demo: ## show everything on this machine: two models, a broker, a node, real messages
	@scripts/demo $(ARGS)

test: ## test the installed wheel: unit, integration, and the core of system
	@scripts/test $(ARGS)

test-unit: ## test modules: no broker, no model, no torch
	@scripts/test unit $(ARGS)

test-integration: ## test with brokers, child processes and a fake engine
	@scripts/test integration $(ARGS)

test-all: ## test all but ARM and packages: Home Assistant, hawkBit, Mender, browsers, exports
	@scripts/test all $(ARGS)

check: ## lint, format, spelling, documents and types
	@scripts/check $(ARGS)

docs: ## build the documents as a site, and check their links
	@scripts/docs $(ARGS)

bench: ## measure engine and daemon; wants an idle machine
	@scripts/bench $(ARGS)

bench-compare: ## measure beside llama.cpp's server (an hour)
	@scripts/bench-compare $(ARGS)

attack: ## run known attacks against an installed node (5 minutes)
	@scripts/attack $(ARGS)

chaos: ## kill, freeze and fill disks under load, as root (30 minutes)
	@scripts/chaos $(ARGS)

fuzz: ## fuzz all parsers (an hour)
	@scripts/fuzz $(ARGS)

simulate: ## simulate crashes, power cuts and broken connections: SEEDS=0:600 (5 minutes)
	@scripts/simulate $(ARGS)

house: ## print figures of the code's structure
	@scripts/house $(ARGS)

test-arm: ## run the daemon on an emulated Cortex-A72 and A76
	@scripts/test-arm $(ARGS)

deb: ## build the Debian packages for amd64 and arm64
	@scripts/deb $(ARGS)

test-deb: ## test the Debian packages in clean systems, as root
	@scripts/test-deb $(ARGS)

test-image: ## build and test the image of Home Assistant's add-on, as root
	@scripts/test-image $(ARGS)
