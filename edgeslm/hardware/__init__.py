"""Hardware: facts about this machine, board profiles, malloc settings."""
