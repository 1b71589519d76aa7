"""Deterministic simulation of delivery."""
