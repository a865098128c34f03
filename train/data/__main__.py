"""`python -m train.data`: what is done to data ahead of training."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from train.data.pack import pack
from train.data.sources import DataError


def _pack(
    folder: Annotated[Path, tyro.conf.arg(metavar="DIR"), tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.arg(metavar="OUT"), tyro.conf.Positional],
    /,
    size: int | None = None,
    quality: int = 95,
    shards: int | None = None,
    workers: int | None = None,
) -> None:
    """Writes ArrayRecord shards from a folder of images, which `python -m train --data packed` reads.

    Image files are stored as they are, unless they are to be resized. A pack that was stopped is finished by
    the same command.

    Args:
        folder: Holds train and test (or val), each a folder of class folders or a tar of one.
        out: Folder for the shards and their index.json.
        size: Shorter side in pixels to which larger images are resized; None: none are.
        quality: Of the JPEG of images that are resized, 1 to 100.
        shards: Files of training images; None: one for each 1000 images.
        workers: Processes; None: one for each core.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("packing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("")
        index = pack(
            folder,
            out,
            size=size,
            quality=quality,
            shards=shards,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for name, split in index["splits"].items():
        files = split["shards"]
        size_mb = sum(x["bytes"] for x in files) / 1e6
        print(f"{name}: {sum(split['class_counts'])} images in {len(files)} shard(s), {size_mb:.1f} MB")
        if unreadable := split["unreadable"]:
            print(
                f"{name}: {len(unreadable)} image(s) left out, for they cannot be read:",
                *unreadable,
                sep="\n  ",
            )
    print(f"train on it with --data packed --data-dir {out}")


def main() -> int:
    """The exit status. 0: done; 1: broken off; 2: cannot be done as asked; 130: interrupted."""
    try:
        tyro.extras.subcommand_cli_from_dict({"pack": _pack}, prog="python -m train.data")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command finishes the pack", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
