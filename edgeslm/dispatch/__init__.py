"""A pool's dispatcher: requests in, each forwarded to the node that will be done with it first. No engine."""
