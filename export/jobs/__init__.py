"""Child processes, resource checks, optimum's environment, and checkpoints of interrupted commands."""
