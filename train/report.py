"""Curves and a table of runs: `python -m train.report WORKDIR... [--out report]` writes a PNG and a page.

The page is one HTML file, with the picture in it. Needs matplotlib.
"""

import base64
import html
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from train.config import Config
from train.metrics import Row, read_rows
from train.recipes import RECIPES, recipe_config
from train.workdir import write_atomically


@dataclass(frozen=True)
class Report:
    """Draws curves of runs, and a table of them, into OUT.png and OUT.html."""

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or folders of such folders."""
    out: Path = Path("report")
    """Where to write, without a suffix."""


class Curves(NamedTuple):
    """One run: what its folder tells."""

    name: str
    config: dict[str, Any]
    train: list[Row]
    tests: list[Row]  # evaluations during the run: on test images, or on those held back for validation


class ReportError(ValueError):
    """There is nothing to report. The message is one sentence."""


def read_run(run_dir: Path) -> Curves:
    """A run's configuration and rows. Raises ReportError where the folder holds none."""
    try:
        config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        rows = read_rows(run_dir / "metrics.jsonl")
    except (OSError, ValueError) as error:
        raise ReportError(f"{run_dir} holds no run ({error})") from error
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("train", "eval")}
    if not kinds["train"]:
        raise ReportError(f"{run_dir} holds a run that has not come to its first row of metrics")
    return Curves(run_dir.name, config, kinds["train"], kinds["eval"])


def find_runs(workdirs: Sequence[Path]) -> list[Path]:
    """Folders of runs among these and directly in them, in their order."""
    found = []
    for path in workdirs:
        inside = sorted(config.parent for config in path.glob("*/config.json"))
        found += [path] if (path / "config.json").exists() or not inside else inside
    return found


COLUMNS = (
    "run",
    "model",
    "data",
    "steps",
    "loss",
    "accuracy, %",
    "best, %",
    "images/s",
    "PFLOP",
    "hours",
)


def table(runs: Sequence[Curves]) -> list[tuple[str, ...]]:
    """A row of COLUMNS for each run."""
    return [_cells(run) for run in runs]


def _cells(run: Curves) -> tuple[str, ...]:
    last, rates = (
        run.train[-1],
        [row["images_per_second"] for row in run.train if row.get("images_per_second")],
    )
    accuracies = [row.get("ema_accuracy", row["accuracy"]) for row in run.tests]
    return (
        run.name,
        run.config["model"],
        run.config["data"],
        f"{last['step']:,}",
        f"{last['loss']:.4f}",
        f"{100 * accuracies[-1]:.2f}{_of(run)}" if accuracies else "",
        f"{100 * max(accuracies):.2f}" if accuracies else "",
        f"{sorted(rates)[len(rates) // 2]:,.0f}" if rates else "",
        f"{last['flops'] / 1e15:.3g}" if last.get("flops") else "",
        f"{max(row['seconds'] for row in run.train + run.tests) / 3600:.2f}",
    )


def _of(run: Curves) -> str:
    """What the accuracies of a run are of, where it is not the test images."""
    return f" ({run.tests[-1]['of']})" if "of" in run.tests[-1] else ""


def draw(runs: Sequence[Curves]) -> bytes:
    """A PNG: training loss, accuracy in evaluations and learning rate over epochs, a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    for run in runs:
        epochs = [row["epoch"] for row in run.train]
        (line,) = loss.plot(epochs, [row["loss"] for row in run.train], label=run.name)
        rate.plot(epochs, [row["learning_rate"] for row in run.train], color=line.get_color())
        tests = [row["epoch"] for row in run.tests]
        accuracy.plot(tests, [100 * row["accuracy"] for row in run.tests], ".-", color=line.get_color())
        if run.tests and "ema_accuracy" in run.tests[-1]:
            averaged = [100 * row["ema_accuracy"] for row in run.tests]
            accuracy.plot(tests, averaged, ".--", color=line.get_color())
    for axes, title in (
        (loss, "training loss, nats"),
        (accuracy, "accuracy in evaluations, % (dashed: averaged weights)"),
        (rate, "learning rate"),
    ):
        axes.set(title=title, xlabel="epochs")
        axes.grid(alpha=0.3)
    loss.legend(fontsize="small")
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


_PAGE = """<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Runs</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }}
img {{ max-width: 100%; }} div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .3rem .7rem; text-align: right; }}
th:nth-child(-n+3), td:nth-child(-n+3) {{ text-align: left; }} tr + tr {{ border-top: 1px solid #ddd; }}
</style>
<h1>Runs</h1>
<img alt="training loss, accuracy and learning rate" src="data:image/png;base64,{picture}">
<div><table>
{rows}
</table></div>
{flags}
"""


def page(runs: Sequence[Curves], picture: bytes) -> str:
    """The whole HTML page."""
    cells = [_row("th", COLUMNS), *(_row("td", row) for row in table(runs))]
    flags = [
        f"<p><b>{html.escape(run.name)}</b> {html.escape(' '.join(given_flags(run.config)))}</p>"
        for run in runs
    ]
    content = base64.b64encode(picture).decode()
    return _PAGE.format(picture=content, rows="\n".join(cells), flags="\n".join(flags))


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def given_flags(config: dict[str, Any]) -> list[str]:
    """The flags of `python -m train` that make a kept configuration, where its recipe or defaults do not."""
    recipe = config.get("recipe")
    base = recipe_config(recipe) if recipe in RECIPES else Config()
    given = {**json.loads(json.dumps(vars(base), default=str)), "recipe": None}
    return [_flag(name, value) for name, value in config.items() if value != given.get(name)]


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {' '.join(map(str, value)) if isinstance(value, list) else value}"


def main() -> int:
    """0: written; 2: it cannot be as asked."""
    args = tyro.cli(Report, prog="python -m train.report")
    try:
        runs = [read_run(path) for path in find_runs(args.workdirs)]
        if not runs:
            raise ReportError("there is no run to report: give folders of runs")
        picture = draw(runs)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".png").write_bytes(picture)
        write_atomically(args.out.with_suffix(".html"), page(runs, picture))
    except (ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: a report needs the package {error.name}, which is not installed", file=sys.stderr)
        return 2
    print(f"{args.out.with_suffix('.png')} and {args.out.with_suffix('.html')}: {len(runs)} run(s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
