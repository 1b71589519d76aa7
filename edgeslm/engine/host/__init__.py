"""The parent's side of inference processes: handles, and teams of several."""
