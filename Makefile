# The same commands for people and CI. Each is a script, which also works where make is missing.
# Arguments for one: make test ARGS="-k topics"
.PHONY: demo test test-unit test-integration test-all check docs bench bench-compare attack chaos fuzz house test-arm deb test-deb

demo:
	@scripts/demo $(ARGS)

test:
	@scripts/test $(ARGS)

test-unit:
	@scripts/test unit $(ARGS)

test-integration:
	@scripts/test integration $(ARGS)

test-all:
	@scripts/test all $(ARGS)

check:
	@scripts/check $(ARGS)

docs:
	@scripts/docs $(ARGS)

bench:
	@scripts/bench $(ARGS)

bench-compare:
	@scripts/bench-compare $(ARGS)

attack:
	@scripts/attack $(ARGS)

chaos:
	@scripts/chaos $(ARGS)

fuzz:
	@scripts/fuzz $(ARGS)

house:
	@scripts/house $(ARGS)

test-arm:
	@scripts/test-arm $(ARGS)

deb:
	@scripts/deb $(ARGS)

test-deb:
	@scripts/test-deb $(ARGS)
