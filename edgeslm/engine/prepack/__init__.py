"""Weight prepacking for this machine, and the tests that a prepacked bundle must pass: golden answers, smoke
test."""
