"""`python -m benchmarks.claims`: see the package."""

import argparse
from pathlib import Path

from benchmarks import claims
from benchmarks.claims import ledger, report
from benchmarks.claims.claim import Places
from benchmarks.claims.show import show, show_all
from train.data import DataError


def main() -> None:
    """List the claims, run some, or write their page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims",
        description=claims.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all claims, and how their kept runs came out")
    runs = commands.add_parser("run", help="measure the seeds of claims that are not kept")
    runs.add_argument("names", nargs="+", metavar="ID", choices=[*ledger.CLAIMS, "tier-C"])
    runs.add_argument("--anew", action="store_true", help="measure those that are kept, too")
    for place in Places._fields:
        runs.add_argument(f"--{place.replace('_', '-')}", type=Path, help=f"where the files of {place} lie")
    commands.add_parser("report", help="docs/claims.md, and its plots")
    shown = commands.add_parser("show", help="the ledger, or one claim, as `flaxarch claims` does")
    shown.add_argument("name", nargs="?", metavar="ID")
    shown.add_argument("--json", action="store_true")
    args = parser.parse_args()
    match args.command:
        case "list":
            print(report.listing())
        case "show" if args.name is None:
            show_all(args.json)
        case "show":
            show(args.name, args.json)
        case "report":
            report.write()
        case "run":
            places = Places(**{place: getattr(args, place) for place in Places._fields})
            tier_c = [name for name, claim in ledger.CLAIMS.items() if claim.tier == "C"]
            for name in tier_c if "tier-C" in args.names else args.names:
                try:
                    for line in ledger.run(name, places, anew=args.anew):
                        print(line, flush=True)
                except DataError as error:
                    raise SystemExit(str(error)) from error
                for verdict in ledger.verdicts(name, ledger.read(name) or {"seeds": {}}):
                    print(f"  {report.in_words(verdict)}", flush=True)


if __name__ == "__main__":
    main()
