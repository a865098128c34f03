"""The page `docs/weights.md`, from what was kept."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.weights import kept, libraries
from benchmarks.weights.pairs import LIBRARIES
from flaxarch.registry import FAMILIES, published

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
CLOSE = 1e-9  # the contract, of logits in float64

HEADING = """# Files of other libraries

Written by `python -m benchmarks.weights.page`. Each pair of a family and a library is a network that the
library built and saved by its own functions, with random weights and batch statistics: no scale is one, no
mean is zero. The files were read where none of torch, torchvision, timm, pytorchcv, Keras and TensorFlow is
installed, by `flaxarch.load(path)` without a name. What is compared are the logits, in float64: the largest
difference over the largest logit.
"""
PAIRS = """## Pairs

A cell has the smallest row, and the largest difference over all files of the pair. "-": the library has no
network of the family.
"""
NETWORKS = """## Networks

"recognised": in how many of its files the names and shapes alone tell the row; where they fit several rows,
these. "back to torch": what `flaxarch.to_torch` gives with the library's names, written by
`flaxarch.convert.write_torch`, went through that network's `load_state_dict(strict=True)`, bit-equal to what
the library had written. Where by default it gives another library's names, it went into that one's network
too, whose logits are then compared with the first one's.
"""
FORMATS = """## Formats

The smallest network that a table of rules reads of a library is written in all of these, any other in one.
bfloat16 and float16 are compared with the library's logits under the rounded weights. Of a trainer's
checkpoint that has averaged weights too, the plain ones are read.
"""
OTHERS = """## What is not read, and what looks alike

All networks that the libraries have of our families, built with their default arguments, less pytorchcv's
copies for other data sets. Names and shapes alone were held against the rows. Where a network is read as a
row, is not in the table above, and another network of that row is, the library itself compared the two, under
the same weights. The rest of a library, as networks for segmentation or detection and quantised ones, is not
of our families.
"""
NO_RULES = "no rules for these names"
OTHER_FORM = "no row of this depth, width or form"
COLUMNS = ("family", *LIBRARIES.values())
NETWORK_COLUMNS = ("network", "row", "files", "recognised", "largest difference", "back to torch")


def page() -> str:
    """The whole page."""
    found = kept.read()
    pairs, catalogue = found.get("pairs", {}), found.get("catalogue", {})
    lines = [HEADING, PAIRS, *_table(COLUMNS, _matrix(pairs, catalogue)), "", _counts(pairs), ""]
    lines += [
        NETWORKS,
        *_table(("network", "row", "files", "recognised", "largest", "back to torch"), _networks(pairs)),
    ]
    lines += ["", FORMATS, *_table(("format", "files", "largest difference"), _formats(pairs)), ""]
    lines += [OTHERS, *_table(("family", "library", "read", "not read"), _others(catalogue)), ""]
    lines += list(_alike(catalogue))
    lines += list(_keys(found.get("keys", {})))
    lines += [f"Versions: {'; '.join(sorted({pair['versions'] for pair in pairs.values()}))}."]
    return "\n".join(lines) + "\n"


def _table(columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    heading = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return heading + ["| " + " | ".join(cells) + " |" for cells in rows]


def largest(pair: dict[str, Any]) -> float:
    """Over all files of a pair."""
    return max(file["error"] for file in pair["formats"].values())


def _matrix(pairs: dict[str, Any], catalogue: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for family in _families():
        cells = []
        for library in LIBRARIES.values():
            of_both = [x for x in pairs.values() if (x["family"], x["library"]) == (family, library)]
            has_some = any(
                key.startswith(f"{library} ") and x["family"] == family for key, x in catalogue.items()
            )
            if of_both:
                first = min(of_both, key=lambda x: published(x["row"]).num_params)
                cells.append(f"`{first['row']}` {max(map(largest, of_both)):.0e}")
            else:
                cells.append("none read" if has_some else "-")
        yield (family, *cells)


def _families() -> list[str]:
    return [family.__name__.rpartition(".")[2] for family in FAMILIES]


def _counts(pairs: dict[str, Any]) -> str:
    both = {(pair["family"], pair["library"]) for pair in pairs.values()}
    files = sum(len(pair["formats"]) for pair in pairs.values())
    return (
        f"{len(both)} pairs, {len(pairs)} networks, {files} files; largest difference "
        f"{max(map(largest, pairs.values()), default=0.0):.0e}."
    )


def _networks(pairs: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, pair in sorted(pairs.items(), key=lambda x: _families().index(x[1]["family"])):
        formats = pair["formats"].values()
        alone = sum(file["recognised"] == [pair["row"]] for file in formats)
        asked = sorted(
            {", ".join(file["recognised"]) for file in formats if file["recognised"] != [pair["row"]]}
        )
        recognised = "all" if alone == len(formats) else "; ".join([f"{alone}", *asked] if alone else asked)
        yield name, f"`{pair['row']}`", str(len(formats)), recognised, f"{largest(pair):.0e}", _back(pair)


def _back(pair: dict[str, Any]) -> str:
    if "back" not in pair:
        return "-" if pair["library"] == "Keras" else "not tried"
    back = pair["back"]
    words = "bit-equal" if back["bits"] else "differs"
    if "into" in back and back["into"] is not None:
        words += f"; {back['into']} {back['error']:.0e}"
    return words


def _formats(pairs: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    errors: dict[str, list[float]] = defaultdict(list)
    for pair in pairs.values():
        for format_, file in pair["formats"].items():
            errors[format_].append(file["error"])
    for format_, found in sorted(errors.items()):
        yield format_, str(len(found)), f"{max(found):.0e}"


def _others(catalogue: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for family in _families():
        for library in LIBRARIES.values():
            of_both = {
                key: x["rows"]
                for key, x in catalogue.items()
                if key.startswith(f"{library} ") and x["family"] == family
            }
            if of_both:
                read = [key for key, rows in of_both.items() if rows]
                reasons: dict[str, list[str]] = defaultdict(list)
                for key in of_both.keys() - set(read):
                    why = libraries.reason(key) or (OTHER_FORM if read else NO_RULES)
                    reasons[why].append(key.partition(" ")[2])
                words = [f"{', '.join(sorted(names))}: {why}" for why, names in sorted(reasons.items())]
                yield family, library, f"{len(read)} of {len(of_both)}", "; ".join(words)


def is_another(entry: dict[str, Any]) -> bool:
    """Whether a network has a row's names and shapes and is another function."""
    return "compared with" in entry and (entry["error"] is None or entry["error"] > CLOSE)


def _alike(catalogue: dict[str, Any]) -> Iterator[str]:
    several = {key: x["rows"] for key, x in catalogue.items() if len(x["rows"]) > 1}
    if several:
        yield "A name has to choose, as the tensors fit several rows:\n"
        yield from (f"- {key}: {', '.join(rows)}" for key, rows in sorted(several.items()))
        yield ""
    others = {key: x for key, x in catalogue.items() if is_another(x)}
    if others:
        yield (
            "These have the names and shapes of a row, and are another function. Their files do not tell, so "
            "that `load` takes them for the row, with other logits than theirs:\n"
        )
        for key, x in sorted(others.items()):
            yield f"- {key}: as `{x['rows'][0]}`, {_wrong(x)}"
        yield ""


def _wrong(entry: dict[str, Any]) -> str:
    if entry["error"] is None:
        return f"not compared, as {entry['compared with']} has other names"
    return f"{entry['error']:.0e} from {entry['compared with']}"


def _keys(keys: dict[str, Any]) -> Iterator[str]:
    if keys:
        one = [key for key, x in keys.items() if len(x["rows"]) == 1]
        yield "## Names and shapes recorded apart\n"
        yield (
            f"Of {len(keys)} lists of names and shapes, recorded from the libraries for networks of these "
            f"families, {len(one)} are of one row. The others:\n"
        )
        for key in sorted(keys.keys() - set(one)):
            yield f"- {key}: {', '.join(keys[key]['rows']) or libraries.reason(key) or OTHER_FORM}"
        yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(_counts(kept.read().get("pairs", {})))
