"""Weight prepacking for this machine, and tests of bundles on this machine: golden answers and smoke test."""
