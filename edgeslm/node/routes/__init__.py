"""Routes: read messages of watched topics, one by one or in windows, and publish the results."""
