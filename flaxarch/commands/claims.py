"""`flaxarch claims`: the ledger of published claims, which lies beside the library in its repository."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

import flaxarch
from flaxarch.commands.base import Command, CommandError, UsageError


@dataclass(frozen=True)
class Claims(Command):
    """Tells which claims of the papers runs have borne out, and which not; with a name, by what numbers.

    `python -m benchmarks.claims run NAME` measures one.
    """

    name: tyro.conf.Positional[str] = ""
    """One claim, as the list names it."""

    def run(self) -> int:
        """Prints the ledger, or a claim; `benchmarks.claims` answers, in a process of its own."""
        root = Path(flaxarch.__file__).parents[1]
        if not (root / "benchmarks" / "claims").is_dir():
            raise CommandError(
                "the claims and their runs are in flaxarch's repository, not in the installed package: "
                "clone it, and pip install -e '.[train,report]' there"
            )
        words = [*([self.name] if self.name else []), *(["--json"] if self.json else [])]
        command = [sys.executable, "-m", "benchmarks.claims", "show", *words]
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, encoding="utf-8", check=False
        )
        if done.returncode:
            raise UsageError(done.stderr.strip().rpartition("\n")[2])
        sys.stdout.write(done.stdout)
        return 0
