"""Model export on the build machine: turns checkpoints into bundles that a device runs.

Installed as ``edgeslm_export`` with the extra ``edgeslm[export]``. Devices never import this package.
"""
