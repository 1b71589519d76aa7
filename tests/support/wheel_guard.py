"""In the environment of ``scripts/wheel``: edgeslm comes from the installed wheel there, or from nowhere.

Imported by a ``.pth`` file at the start of every process of that Python, so it loads next to nothing. It also
finds ``tests`` and ``benchmarks``, which are no part of the wheel, without putting the checkout on the path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

SITE_PACKAGES = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib costs every child 10 ms
CHECKOUT = os.path.dirname(os.path.dirname(sys.prefix))  # noqa: PTH120  # it is .edgeslm/wheel
GUARDED = ("edgeslm", "edgeslm_export")
UNPACKED = ("benchmarks", "tests")


class WheelGuard:
    """A finder that comes before all others (:class:`importlib.abc.MetaPathFinder`)."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in UNPACKED:
            package = ModuleSpec(name, None, is_package=True)
            package.submodule_search_locations = [os.path.join(CHECKOUT, name)]  # noqa: PTH118
            return package
        if name not in GUARDED:
            return None
        spec = PathFinder.find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError(f"the wheel isn't installed: there is no {name}", name=name)
        if not os.path.abspath(spec.origin).startswith(SITE_PACKAGES + os.sep):  # noqa: PTH100
            raise ImportError(
                f"{name} would come from {spec.origin}, not from the wheel in {SITE_PACKAGES}: "
                "take the checkout off PYTHONPATH, or start in another folder",
                name=name,
            )
        return spec


sys.meta_path.insert(0, WheelGuard)
