"""Which packages there are: found in the tree, so that none is forgotten. All else is in pyproject.toml."""

import shutil

from setuptools import find_namespace_packages, find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = {
    "edgeslm_export": "export",
    # Profiles of boards and brokers, and what a device installs: no Python, but an installation needs them. A
    # checkout reads them where they are.
    "edgeslm.boards": "firmware-config/boards",
    "edgeslm.mosquitto": "firmware-config/mosquitto",
    "edgeslm.requirements": "requirements",
}


class FreshBuild(build_py):
    """Setuptools copies into ``build/`` and packs all that lies there, modules that are gone too."""

    def run(self):
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    cmdclass={"build_py": FreshBuild},
    packages=[
        *find_namespace_packages(include=["edgeslm", "edgeslm.*"], exclude=["*__pycache__*"]),
        *(f"edgeslm_export.{name}" for name in find_packages("export")),
        *FOLDERS,
    ],
    package_dir=FOLDERS,
)
