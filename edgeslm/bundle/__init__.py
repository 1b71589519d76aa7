"""Model bundles: manifest, calibration, signature, trust, size and speed estimates.

This package is the contract between the build machine and a device.
"""
