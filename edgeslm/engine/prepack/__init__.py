"""Weight prepacking for this machine, and the tests that it has to pass: golden answers, smoke test."""
