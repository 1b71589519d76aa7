"""``edgeslm teach``: labels messages in the terminal and trains a task on them, on this device."""
