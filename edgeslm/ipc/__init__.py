"""Child processes: one-shot jobs within limits of memory and time."""
