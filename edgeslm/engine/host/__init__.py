"""The parent's side of worker processes: one handle each, and teams of several."""
