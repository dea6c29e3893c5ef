"""Imports go one way. The order is that of the architecture; a module may import from its own layer and from below.

Every import counts, also those inside functions and behind `TYPE_CHECKING`: a hidden arrow is an arrow.
"""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "sfumato"

# From the lowest to the highest. Parts of one layer may use each other, but not in a circle.
LAYERS = (
    {"__init__"},
    {
        "errors",
        "allocator",
        "at_most",
        "bounded",
        "durable",
        "keyed",
        "lift",
        "machine",
        "plots",
        "page",
        "report",
        "transfer",
        "user_cache",
    },
    {"settings", "settings_yaml", "config_errors", "config"},
    {"diffusion", "networks"},
    {"registry"},
    {"codecs", "conditioning", "data"},
    {"kinds"},
    {"saved", "request", "drawing", "model"},
    {"material", "features"},
    {"measures"},
    {"training", "generation"},
    {"distillation", "evaluation", "explain", "provenance", "export"},
    {"serving", "studio"},
    {"doctor"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}

# The mathematics and the networks stand alone: of the package only themselves, and these beside the standard library.
ALONE = {"diffusion": {"torch", "scipy"}, "networks": {"torch", "safetensors"}}


def modules(root: Path) -> dict[str, Path]:
    """Dotted names below the package -> files: "diffusion.schedules", "config", "__init__"."""
    names = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = file
    return names


def imports(file: Path, name: str, known: dict[str, Path]) -> tuple[set[str], set[str]]:
    """What a module imports: (modules of the package, top names of everything else)."""
    own, other = set(), set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                here = ["sfumato", *name.split(".")] if name != "__init__" else ["sfumato", "__init__"]
                above = here[: len(here) - node.level + (file.name == "__init__.py" and name != "__init__")]
                origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import name` imports a module where there is one of that name
            found = [f"{origin}.{alias.name}" for alias in node.names]
        for full in found:
            parts = full.split(".")
            if parts[0] != "sfumato":
                other.add(parts[0])
                continue
            inside = parts[1:]
            while inside and ".".join(inside) not in known:
                inside = inside[:-1]
            own.add(".".join(inside) or "__init__")
    return own - {name}, other


def faults(root: Path) -> list[str]:
    """Every upward arrow, circle, unknown part and forbidden import below `root`, in words."""
    known = modules(root)
    arrows = {name: imports(file, name, known) for name, file in known.items()}
    found = []

    part_arrows: dict[str, set[str]] = {}
    for name, (own, other) in arrows.items():
        part = name.split(".")[0]
        if part not in HEIGHT:
            found.append(f"{name}: part {part!r} has no layer")
            continue
        for target in sorted(own):
            target_part = target.split(".")[0]
            if target_part == part:
                continue
            part_arrows.setdefault(part, set()).add(target_part)
            if HEIGHT.get(target_part, -1) > HEIGHT[part]:
                found.append(f"{name} -> {target}: upward")
            elif part in ALONE:
                found.append(f"{name} -> {target}: {part} stands alone")
        if part in ALONE:
            foreign = other - ALONE[part] - sys.stdlib_module_names
            found += [f"{name} -> {module}: not for {part}" for module in sorted(foreign)]

    for graph in ({name: own for name, (own, _) in arrows.items()}, part_arrows):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            found.append("circle: " + " -> ".join(reversed(error.args[1])))
    return found


def test_imports_go_one_way_and_in_no_circle():
    assert faults(SOURCE) == []


GOOD = {
    "__init__.py": "",
    "errors.py": "import sys",
    "diffusion/__init__.py": "from sfumato.diffusion.solvers import step\n",
    "diffusion/solvers.py": "import torch\nfrom . import schedules\ndef step(): ...\n",
    "diffusion/schedules.py": "import math\n",
    "data/sources.py": "from sfumato.errors import UserError\nimport numpy\n",
    "training/run.py": "from sfumato.data import sources\nfrom sfumato.diffusion.solvers import step\n",
    "cli/main.py": "from sfumato import __version__\nfrom ..training import run\n",
}


def tree(root: Path, **changed: str) -> Path:
    """A made-up package with some files put in, slashes of the names written as two underscores."""
    for name, text in {**GOOD, **{f"{key.replace('__', '/')}.py": text for key, text in changed.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_good_tree_passes(tmp_path):
    assert faults(tree(tmp_path)) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("diffusion__losses", "from sfumato.training.run import train", "diffusion.losses -> training.run: upward"),
        ("diffusion__losses", "from ..training import run", "diffusion.losses -> training.run: upward"),
        ("data__late", "def f():\n    import sfumato.cli.main", "data.late -> cli.main: upward"),
        ("errors", "from sfumato.data import sources", "errors -> data.sources: upward"),
        (
            "diffusion__losses",
            "from sfumato.errors import UserError",
            "diffusion.losses -> errors: diffusion stands alone",
        ),
        ("networks__unet", "import numpy", "networks.unet -> numpy: not for networks"),
        (
            "networks__unet",
            "from sfumato.diffusion import solvers",
            "networks.unet -> diffusion.solvers: networks stands",
        ),
        ("utils", "", "utils: part 'utils' has no layer"),
        ("diffusion__schedules", "from . import solvers", "circle: "),
    ],
)
def test_a_bad_import_is_found(tmp_path, file, text, fault):
    assert any(line.startswith(fault) for line in faults(tree(tmp_path, **{file: text})))


def test_a_circle_of_two_parts_of_one_layer_is_found(tmp_path):
    root = tree(
        tmp_path,
        codecs__pixels="from sfumato.data.readers import read",
        data__readers="",
        data__loader="from sfumato.codecs.tokens import encode",
        codecs__tokens="",
    )
    assert [line for line in faults(root) if "circle" in line and "codecs" in line and "data" in line]
