"""Rollouts: fleet servers (hawkBit, Mender) send bundles to a node and get reports of each step."""
