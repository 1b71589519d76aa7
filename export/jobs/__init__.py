"""Child processes: their resources, the environment of optimum, notes of what is done."""
