"""Rollouts: servers of device fleets (hawkBit, Mender) bring bundles to a node, and hear what came of it."""
