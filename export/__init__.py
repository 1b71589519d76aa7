"""The build machine's side: checkpoints become bundles that a device runs.

Installed as ``edgeslm_export`` with the extra ``edgeslm[export]``; the device never imports it.
"""
