"""Structure metrics: ``scripts/house.py [TREE...]`` prints a column for each tree (default: this one)."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"edgeslm": "edgeslm", "export": "edgeslm_export"}
MOST_PARAMETERS = 8


class Tree:
    """The modules of a checkout, parsed."""

    def __init__(self, root: Path) -> None:
        self.modules: dict[str, ast.Module] = {}
        self.lines: Counter[str] = Counter()
        self.flat: Counter[str] = Counter()
        for folder, package in PACKAGES.items():
            for file in sorted((root / folder).rglob("*.py")):
                parts = file.relative_to(root / folder).with_suffix("").parts
                text = file.read_text("utf-8")
                self.modules[".".join([package, *parts]).removesuffix(".__init__")] = ast.parse(text)
                self.lines[folder] += text.count("\n")
                self.flat[folder] += len(parts) == 1

    def nodes(self) -> Iterator[tuple[str, ast.AST]]:
        for name, tree in self.modules.items():
            yield from ((name, node) for node in ast.walk(tree))

    def arrows(self, *, types: bool = False) -> set[tuple[str, str]]:
        """Imports as (importing module, imported module). :param types: include those for type checking."""
        found = set()
        for name, tree in self.modules.items():
            typing = {
                inner
                for node in ast.walk(tree)
                if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                for inner in ast.walk(node)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (types or node not in typing):
                    for alias in node.names:
                        other = f"{node.module}.{alias.name}"
                        while other and other not in self.modules:
                            other = other.rpartition(".")[0]
                        if other and other != name:
                            found.add((name, other))
        return found


def unit(name: str) -> str:
    """A module's package below the top level."""
    return ".".join(name.split(".")[:2])


def circles(arrows: set[tuple[str, str]]) -> int:
    """Number of units that import themselves, directly or through others."""
    following: dict[str, set[str]] = {}
    for one, other in arrows:
        following.setdefault(one, set()).add(other)

    def reaches_itself(start: str) -> bool:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = following.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return start in seen

    return sum(map(reaches_itself, following))


def figures(root: Path) -> dict[str, int]:
    tree = Tree(root)
    arrows = tree.arrows()
    types = Counter(node.name for _, node in tree.nodes() if isinstance(node, ast.ClassDef))
    functions = [node for _, node in tree.nodes() if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    packages = {(unit(a), unit(b)) for a, b in arrows if unit(a) != unit(b)}
    seen = {unit(b) for a, b in arrows if a.startswith("edgeslm_export") and b.startswith("edgeslm.")}
    return {
        "flat modules, edgeslm": tree.flat["edgeslm"],
        "flat modules, export": tree.flat["export"],
        "circles of packages": circles(packages),
        "circles of modules": circles({(a, b) for a, b in arrows if not a.startswith(f"{b}.")}),
        "the same, with imports for types": circles(
            {(a, b) for a, b in tree.arrows(types=True) if not a.startswith(f"{b}.")}
        ),
        "of edgeslm, seen by export": len(seen),
        "type names twice or more": sum(count > 1 for count in types.values()),
        f"functions with more than {MOST_PARAMETERS} parameters": sum(
            len(one.args.args)
            + len(one.args.kwonlyargs)
            - (one.args.args[:1] != [] and one.args.args[0].arg == "self")
            > MOST_PARAMETERS
            for one in functions
        ),
        "Callable[": sum(
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and node.value.id == "Callable"
            for _, node in tree.nodes()
        ),
        "lines, edgeslm": tree.lines["edgeslm"],
        "lines, export": tree.lines["export"],
    }


def main(trees: list[str]) -> None:
    columns = [figures(Path(tree)) for tree in trees or [str(ROOT)]]
    for name in columns[0]:
        sys.stdout.write(f"{name:<38}" + "".join(f"{column[name]:>9,}" for column in columns) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
