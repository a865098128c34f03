"""The page of the last runs, `docs/fuzz.md`."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "fuzz.json"
PAGE = Path(__file__).parents[2] / "docs" / "fuzz.md"

HEADING = """# Damaged and malicious files

Written by `python -m benchmarks.fuzz`, from `benchmarks/results/fuzz.json`. `flaxarch.load` is given
files that chance and ill will have changed: cut short, bits flipped, numbers and blocks overwritten; zip
entries renamed, doubled, lost, overlapping, with sizes and checksums that lie, bombs; pickles with
opcodes left out or put in, with calls of what would write a file, with tensors that reach out of their
storage; headers with JSON that is deep, huge or has keys twice; HDF5 with links and data outside of the
file, cycles, chunks without data, other types; configurations with Lambda layers. Every second file is
given with the name of its network, the others without.

Each load ends in one of three ways: *equal*, the change did not matter; *other values*, sound numbers
that nothing in the format protects (only zip has checksums); or *refused*, in one line of at most 2,000
characters that names the file, and in it the tensor, entry or byte. Anything else is a failure: another
exception, a crash, over 10 seconds, over 2 GiB of memory, anything executed or opened for writing
(Python's audit hooks and a canary file tell), a tensor that was read from outside of the file.
"""


def page() -> str:
    """The whole page."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    formats = kept["formats"]
    columns = ("format", "files", "equal", "other values", "refused", "failures", "executed")
    lines = [HEADING, _row((*columns, "slowest, s", "peak, MiB")), _row(("---",) * (len(columns) + 2))]
    for name, x in formats.items():
        counts = [x[kind] for kind in ("files", "equal", "other values", "refused")]
        counts += [sum(x["failures"].values()), x["executed"]]
        lines.append(_row((f"`{name}`", *counts, f"{x['slowest seconds']:.2f}", f"{x['peak MiB']:.0f}")))
    places = dict.fromkeys(place for x in formats.values() for place in x["places"])
    lines += ["", "What the refusals name, the smallest first that a sentence has:", ""]
    lines += [_row(("format", *places)), _row(("---",) * (len(places) + 1))]
    lines += [
        _row((f"`{name}`", *(x["places"].get(place, 0) for place in places))) for name, x in formats.items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in kept["versions"].items())
    lines += ["", f"Seed {kept['seed']}; {versions}.", "", HDF5]
    return "\n".join(lines)


def _row(cells: tuple[Any, ...]) -> str:
    return "| " + " | ".join(f"{x:,}" if isinstance(x, int) else str(x) for x in cells) + " |"


HDF5 = """## Why HDF5's library is not used

Of 20,000 small `.h5` files with a few damaged bytes, read by h5py 3.16 with HDF5 2.0, 100 never ended
(they were stopped after 10 seconds) and 2 crashed the process: one file in two hundred. Python can
neither catch nor stop either. So `.h5` files are read by Python of ours
(`flaxarch/convert/hdf5_tree.py`), in which every read is within the file and the number of steps is
bounded; on the same 20,000 files it always ended, in under half a second. It reads what Keras writes,
and h5py unless told otherwise. Files written for HDF5 1.10 and later alone (`libver="latest"`), with
chunks or with groups of many members, are refused in a sentence that says so.
"""
