"""The page of all claims, `docs/claims.md`, and a plot for each that has curves."""

from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.claims.claim import Claim, Verdict, number
from benchmarks.claims.ledger import CLAIMS, read, verdicts

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOTS = DOCS / "claims.md", DOCS / "claims"

HEADING = """# Claims

Statements of the papers, each put to the test by a run: `python -m benchmarks.claims run ID`. A claim holds
where every one of its inequalities does: where the 95 % interval of the mean over seeds (Student's t;
differences are paired over seeds) lies within the bounds. A dash for an interval: the quantity has no
randomness. Some bounds are not the source's but were set here before the run that is kept; the claim says
which. Written by `python -m benchmarks.claims report`, from `benchmarks/results/claims/`.
"""


def listing() -> str:
    """A line for each claim: tier, how its kept run came out, and what it states."""
    lines = []
    for name, claim in CLAIMS.items():
        lines.append(f"{name:32} {claim.tier}  {outcome(name):9}  {claim.statement}")
    return "\n".join(lines)


def outcome(name: str) -> str:
    """One word: "not run", "part run", "holds" or "fails"."""
    kept = read(name)
    if kept is None or not kept["seeds"]:
        return "not run"
    if len(kept["seeds"]) < CLAIMS[name].seeds:
        return "part run"
    return "holds" if all(verdict.passed for verdict in verdicts(name, kept)) else "fails"


def page() -> str:
    """All claims: a table first, then each with its protocol, inequalities, plot and run."""
    lines = [HEADING, "| claim | tier | outcome | source |", "| --- | --- | --- | --- |"]
    for name, claim in CLAIMS.items():
        lines.append(f"| [{claim.statement}](#{name}) | {claim.tier} | {outcome(name)} | {claim.source} |")
    lines.append("")
    for name, claim in CLAIMS.items():
        lines += [*_section(name, claim), ""]
    return "\n".join(lines)


def _section(name: str, claim: Claim) -> list[str]:
    lines = [f'<a id="{name}"></a>', "", f"## {claim.statement}", ""]
    lines += [f"{claim.source}. {claim.protocol}", ""]
    if claim.calibrated:
        lines += [f"Set here: {claim.calibrated}", ""]
    kept = read(name)
    if kept is None:
        lines.append(f"Not run. Tier {claim.tier}: `{command(name)}`.")
        return lines
    lines += ["| inequality | mean | 95 % interval | |", "| --- | --- | --- | --- |"]
    for verdict in verdicts(name, kept):
        lines.append(f"| {' | '.join(cells(verdict))} |")
    lines.append("")
    if has_plot(kept):
        lines += [f"![{claim.statement}](claims/{name}.png)", ""]
    seeds = list(kept["seeds"].values())
    versions = ", ".join(f"{library} {number}" for library, number in seeds[-1]["versions"].items())
    each = fmean(seed["seconds"] for seed in seeds)
    lines.append(
        f"`{command(name)}`: {len(seeds)} seed(s), {each:.0f} s each, {seeds[-1]['hardware']}, {versions}."
    )
    return lines


def command(name: str) -> str:
    """What runs a claim."""
    places = "".join(f" --{place.replace('_', '-')} DIR" for place in CLAIMS[name].needs)
    return f"python -m benchmarks.claims run {name}{places}"


def cells(verdict: Verdict) -> tuple[str, str, str, str]:
    """An inequality, the mean and its interval, and whether it holds."""
    interval = f"{number(verdict.low)} to {number(verdict.high)}" if verdict.low != verdict.high else "—"
    return verdict.words, number(verdict.mean), interval, "holds" if verdict.passed else "**fails**"


def in_words(verdict: Verdict) -> str:
    """A line for the screen."""
    words, mean, interval, held = cells(verdict)
    return f"{words}: {mean} ({interval}) {held.strip('*')}"


def has_plot(kept: dict[str, Any]) -> bool:
    """Whether there are curves to draw."""
    return any(seed["curves"] for seed in kept["seeds"].values())


def write() -> None:
    """The plots and the page."""
    for name, claim in CLAIMS.items():
        kept = read(name)
        if kept is not None and has_plot(kept):
            plot(name, claim, kept)
    PAGE.write_text(page(), encoding="utf-8")


def plot(name: str, claim: Claim, kept: dict[str, Any]) -> None:
    """Mean and range over seeds of each curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    PLOTS.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=110, layout="constrained")
    if claim.draw is not None:
        claim.draw(axes, kept)
    else:
        draw_curves(axes, kept, claim.first_x)
    axes.set(xlabel=claim.x, ylabel=claim.y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.savefig(PLOTS / f"{name}.png", metadata={"Software": None})
    plt.close(figure)


def draw_curves(axes: Any, kept: dict[str, Any], first_x: int) -> None:
    """Every curve: the mean over seeds, and their range as a band."""
    seeds = [seed["curves"] for seed in kept["seeds"].values()]
    for curve in seeds[0]:
        columns = list(zip(*(seed[curve] for seed in seeds), strict=True))
        x = range(first_x, first_x + len(columns))
        axes.plot(x, [fmean(column) for column in columns], label=curve)
        axes.fill_between(x, [min(c) for c in columns], [max(c) for c in columns], alpha=0.2)
