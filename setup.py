"""Which packages there are: found in the tree, so that none is forgotten. All else is in pyproject.toml."""

from setuptools import find_namespace_packages, find_packages, setup

FOLDERS = {
    "edgeslm_export": "export",
    # Profiles of boards and brokers, and what a device installs: no Python, but an installation needs them. A
    # checkout reads them where they are.
    "edgeslm.boards": "firmware-config/boards",
    "edgeslm.mosquitto": "firmware-config/mosquitto",
    "edgeslm.requirements": "requirements",
}

setup(
    packages=[
        *find_namespace_packages(include=["edgeslm", "edgeslm.*"], exclude=["*__pycache__*"]),
        *(f"edgeslm_export.{name}" for name in find_packages("export")),
        *FOLDERS,
    ],
    package_dir=FOLDERS,
)
