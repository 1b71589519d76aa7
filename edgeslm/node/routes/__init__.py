"""Routes: what happens to messages of watched topics, windows included."""
