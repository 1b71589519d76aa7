"""The parent's side of worker processes: a handle for each worker, and teams of several workers."""
