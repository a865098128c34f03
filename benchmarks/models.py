"""The table of all networks, `docs/models.md`: counts, costs, and how near each is to its original.

    python -m benchmarks.models

Counts are the registry's, which the tests hold the code against. Parity is what `python -m
tests.models.parity --live --keep` measured, in `benchmarks/results/parity.json`; a row that no run has
compared says so.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from flaxarch.registry import FAMILIES

ROOT = Path(__file__).parents[1]
PARITY = Path(__file__).parent / "results" / "parity.json"
PAGE = ROOT / "docs" / "models.md"

HEADING = """# The networks

Written by `python -m benchmarks.models`. Counts and multiply-accumulates (MACs, one image of the input
size) are those of the source, and the tests hold every row to them. Parity is measured in float64, with
random weights and batch statistics: in evaluation, the largest difference of logits over the largest
logit, at all sizes named; in training, the largest of the relative differences of the loss, of each
parameter's gradient and of each batch-norm statistic (norm of difference over norm). Its columns name
what a row was run against: a library, or, for rows that no library has, a torch module written after the
paper, which shares no code with ours.
"""
COLUMNS = (
    "row",
    "params",
    "MACs",
    "input",
    "source",
    "compared with",
    "sizes",
    "evaluation",
    "training",
)


def page() -> str:
    """The whole page."""
    parity = json.loads(PARITY.read_text(encoding="utf-8"))
    lines = [HEADING]
    for family in FAMILIES:
        lines += [f"## {family.__name__.rpartition('.')[2]}", "", _first_line(family), ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        lines += ["| " + " | ".join(cells) + " |" for cells in rows(family, parity)]
        lines.append("")
    num_rows = sum(len(family.VARIANTS) for family in FAMILIES)
    lines.append(f"{num_rows} rows in {len(FAMILIES)} family files.")
    return "\n".join(lines) + "\n"


def rows(family: Any, parity: dict[str, Any]) -> Iterator[list[str]]:
    """The cells of each comparison of each row; one line for a row without any."""
    for name, row in family.VARIANTS.items():
        about = [
            f"`{name}`",
            f"{row.num_params:,}",
            f"{row.macs:,}",
            "x".join(str(size) for size in row.input_shape),
            row.source,
        ]
        cases = {key: case for key, case in parity.items() if case["row"] == name}
        for key, case in cases.items():
            form, errors = key.partition(", ")[2], case["errors"]
            against = case["against"] + (f", {form}" if form and form not in case["against"] else "")
            sizes = ", ".join(f"{height}x{width}" for _, height, width in case["evaluation"])
            training = max(errors[kind] for kind in ("loss", "gradients", "statistics"))
            yield [*about, against, sizes, f"{errors['logits']:.0e}", f"{training:.0e}"]
            about = ["", "", "", "", ""]
        if not cases:
            yield [*about, "not compared yet" if _is_library(row.source) else "counts only", "", "", ""]


def _is_library(source: str) -> bool:
    return source.startswith(("torchvision", "timm", "Keras", "pytorchcv"))


def _first_line(family: Any) -> str:
    return (family.__doc__ or "").partition("\n")[0]


def _num_lines(family: Any) -> int:
    return len(Path(family.__file__).read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    sizes = [_num_lines(family) for family in FAMILIES]
    print(f"family files of {min(sizes)} to {max(sizes)} lines, {median(sizes):.0f} in the middle")
