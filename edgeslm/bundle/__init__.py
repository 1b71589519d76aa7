"""Model bundles: manifest, calibration, signature, trust, size and speed estimates.

The contract between the build machine and a device.
"""
