"""What may import what (the map of rooms)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import those of its own line and of the lines below it.
FLOORS = [
    ["benchmarks"],
    ["train"],
    ["flaxarch.cli", "flaxarch.__main__"],
    ["flaxarch.commands"],
    ["flaxarch"],  # the public names
    [
        "flaxarch.analysis",
        "flaxarch.convert",
        "flaxarch.depth",
        "flaxarch.explain",
        "flaxarch.export",
        "flaxarch.preprocess",
        "flaxarch.transfer",
    ],
    ["flaxarch.pictures"],
    ["flaxarch.registry", "flaxarch.functional"],
    ["flaxarch.models"],
    ["flaxarch.variant"],
    ["flaxarch.layers", "flaxarch.loops", "flaxarch.residual"],
    ["flaxarch.ode"],
    ["flaxarch.ops"],
]
PACKAGES = ("benchmarks", "train", "flaxarch")


def floor(module: str) -> int:
    """Height of a module; the longest name that it begins with counts."""
    fits = [
        (len(name), len(FLOORS) - i)
        for i, names in enumerate(FLOORS)
        for name in names
        if module == name or (module.startswith(f"{name}.") and name != "flaxarch")
    ]
    assert fits, f"{module} has no place on the map: add it to FLOORS"
    return max(fits)[1]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Our modules that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            below = ROOT.joinpath(*module.split("."))
            for alias in node.names:
                is_module = (below / f"{alias.name}.py").exists() or (below / alias.name).is_dir()
                names.add(f"{module}.{alias.name}" if is_module else module)
    return {name for name in names if name.split(".")[0] in PACKAGES}


SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_downwards_only(path: Path):
    above = {name for name in imported(path) if floor(name) > floor(module_of(path))}
    assert not above


def test_importing_the_library_brings_no_trainer_and_no_other_framework():
    heavy = ["torch", "tensorflow", "keras", "train", "optax", "orbax", "grain", "sklearn", "PIL", "h5py"]
    code = f"from flaxarch import *; import sys; print([name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    # flax itself imports optax and orbax
    assert set(ast.literal_eval(out)) <= {"optax", "orbax"}


def test_every_folder_of_tests_is_a_package():
    """Without it, two test files of one name are one module to pytest."""
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()
