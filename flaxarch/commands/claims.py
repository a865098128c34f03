"""`flaxarch claims`: the ledger of published claims, which lies beside the library in its repository."""

import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro

import flaxarch
from flaxarch.commands.base import Column, Command, CommandError, UsageError, print_json, print_table, stdout


@dataclass(frozen=True)
class Claims(Command):
    """Tells which claims of the papers runs have borne out, and which not; with a name, by what numbers.

    `python -m benchmarks.claims run NAME` measures one.
    """

    name: tyro.conf.Positional[str] = ""
    """One claim, as the list names it."""

    def run(self) -> int:
        """Prints the ledger, or a claim."""
        ledger, report = _benchmarks()
        if self.name:
            return self._show(ledger, report)
        documents = [_document(name, ledger, report) for name in ledger.CLAIMS]
        if self.json:
            print_json(documents)
            return 0
        rows = [
            tuple(document[key] for key in ("name", "tier", "outcome", "statement")) for document in documents
        ]
        print_table([Column(title) for title in ("claim", "tier", "outcome", "statement")], rows)
        return 0

    def _show(self, ledger: Any, report: Any) -> int:
        if self.name not in ledger.CLAIMS:
            near = difflib.get_close_matches(self.name.lower(), ledger.CLAIMS, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "`flaxarch claims` has all names"
            if self.name == "run":
                hint = "`python -m benchmarks.claims run NAME` measures one"
            raise UsageError(f"there is no claim {self.name!r}: {hint}")
        document = _document(self.name, ledger, report)
        kept = ledger.read(self.name)
        verdicts = ledger.verdicts(self.name, kept) if kept else []
        if self.json:
            document["inequalities"] = [report.in_words(verdict) for verdict in verdicts]
            print_json(document)
            return 0
        claim, say = ledger.CLAIMS[self.name], stdout().print
        say(f"{document['statement']}\n\n{document['source']}\n{claim.protocol}\n")
        seeds = f"{document['seeds']} of {claim.seeds} seeds kept"
        say(f"{document['outcome']} (tier {document['tier']}, {seeds})")
        for verdict in verdicts:
            say(f"  {report.in_words(verdict)}")
        say(f"\n{report.command(self.name)}")
        return 0


def _benchmarks() -> tuple[ModuleType, ModuleType]:
    """The ledger and its report."""
    root = Path(flaxarch.__file__).parents[1]
    if not (root / "benchmarks" / "claims").is_dir():
        raise CommandError(
            "the claims and their runs are in flaxarch's repository, not in the installed package: "
            "clone it, and pip install -e '.[train,report]' there"
        )
    sys.path.insert(0, str(root))
    try:
        from benchmarks.claims import ledger, report
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the claims need {error.name}, which is not installed: pip install -e '.[train,ode]'"
        ) from error
    return ledger, report


def _document(name: str, ledger: Any, report: Any) -> dict[str, Any]:
    claim, kept = ledger.CLAIMS[name], ledger.read(name)
    return {
        "name": name,
        "tier": claim.tier,
        "outcome": report.outcome(name),
        "statement": claim.statement,
        "source": claim.source,
        "seeds": len(kept["seeds"]) if kept else 0,
    }
