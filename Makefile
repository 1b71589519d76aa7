# The same commands for people and CI. Each is a script, which also works where make is missing.
# Arguments for one: make test ARGS="-k topics"
.PHONY: demo test check bench chaos

demo:
	@scripts/demo $(ARGS)

test:
	@scripts/test $(ARGS)

check:
	@scripts/check $(ARGS)

bench:
	@scripts/bench $(ARGS)

chaos:
	@scripts/chaos $(ARGS)
