"""The ledger, or one claim, for people and as JSON: what `flaxarch claims` prints."""

import difflib
from typing import Any

from benchmarks.claims import ledger, report
from flaxarch.commands.base import Column, print_json, print_table, stdout


def show_all(json: bool) -> None:
    """A line for each claim."""
    documents = [_document(name) for name in ledger.CLAIMS]
    if json:
        print_json(documents)
        return
    keys = ("name", "tier", "outcome", "statement")
    rows = [tuple(document[key] for key in keys) for document in documents]
    print_table([Column(title) for title in ("claim", *keys[1:])], rows)


def show(name: str, json: bool) -> None:
    """A claim with its inequalities. Ends the process with a sentence where there is none of this name."""
    if name not in ledger.CLAIMS:
        near = difflib.get_close_matches(name.lower(), ledger.CLAIMS, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`flaxarch claims` has all names"
        if name == "run":
            hint = "`python -m benchmarks.claims run NAME` measures one"
        raise SystemExit(f"there is no claim {name!r}: {hint}")
    document, kept = _document(name), ledger.read(name)
    verdicts = ledger.verdicts(name, kept) if kept else []
    if json:
        print_json({**document, "inequalities": [report.in_words(verdict) for verdict in verdicts]})
        return
    claim, say = ledger.CLAIMS[name], stdout().print
    say(f"{document['statement']}\n\n{document['source']}\n{claim.protocol}\n")
    seeds = f"{document['seeds']} of {claim.seeds} seeds kept"
    say(f"{document['outcome']} (tier {document['tier']}, {seeds})")
    for verdict in verdicts:
        say(f"  {report.in_words(verdict)}")
    say(f"\n{report.command(name)}")


def _document(name: str) -> dict[str, Any]:
    claim, kept = ledger.CLAIMS[name], ledger.read(name)
    return {
        "name": name,
        "tier": claim.tier,
        "outcome": report.outcome(name),
        "statement": claim.statement,
        "source": claim.source,
        "seeds": len(kept["seeds"]) if kept else 0,
    }
