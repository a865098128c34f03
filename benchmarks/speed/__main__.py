"""`python -m benchmarks.speed`: see the package."""

import argparse
import time

from benchmarks import speed
from benchmarks.speed import report
from benchmarks.speed.cases import NETWORKS, PEERS, Case, cases
from benchmarks.speed.contender import Interpreters
from benchmarks.speed.run import Row, keep, run


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=speed.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure, and keep what comes out")
    runs.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    runs.add_argument(
        "--modes", nargs="+", choices=["inference", "training"], default=["inference", "training"]
    )
    runs.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    runs.add_argument("--batches", nargs="+", type=int, help="in place of the device's")
    runs.add_argument(
        "--contenders",
        nargs="*",
        choices=PEERS,
        metavar="NAME",
        help="beside ourselves; all that fit the device",
    )
    runs.add_argument("--python", nargs="+", default=[], metavar="NAME=PYTHON[,FILE]", help="who runs where")
    runs.add_argument("--rounds", type=int, default=9)
    runs.add_argument(
        "--round-seconds", type=float, default=0.25, help="that a contender's steps fill in a round"
    )
    runs.add_argument("--at-once", type=int, default=0, help="cases prepared side by side; 0: none are")
    runs.add_argument("--case-seconds", type=float, default=60.0, help="to time a case in")
    runs.add_argument("--timeout", type=float, default=900.0, help="for a contender to answer in")
    runs.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no case begins")
    commands.add_parser("report", help="docs/speed.md, and its plots")
    args = parser.parse_args()
    if args.command == "report":
        report.write()
        return
    try:
        interpreters = Interpreters.parse(args.python)
    except ValueError as error:
        parser.error(str(error))
    outcomes = run(
        _todo(args),
        _everyone() if args.contenders is None else args.contenders,
        interpreters,
        rounds=args.rounds,
        round_seconds=args.round_seconds,
        at_once=args.at_once,
        case_seconds=args.case_seconds,
        timeout=args.timeout,
        deadline=time.monotonic() + args.limit,
    )
    for rows in outcomes:
        print(_in_words(rows), flush=True)
        if rows[0]["ms"] != "":
            keep(rows)


def _everyone() -> list[str]:
    import jax

    on_cpu = jax.default_backend() == "cpu"
    return [name for name in PEERS if on_cpu or name != "kernels"]


def _todo(args: argparse.Namespace) -> list[Case]:
    import jax

    found = []
    for network in args.networks:
        for case in cases(network, jax.default_backend() == "cpu"):
            if case.mode in args.modes and case.dtype in args.dtypes:
                batches = args.batches or [case.batch]
                found += [case._replace(batch=batch) for batch in batches]
    return list(dict.fromkeys(found))


def _in_words(rows: list[Row]) -> str:
    case = Case(*(rows[0][field] for field in Case._fields))
    parts = []
    for row in rows:
        if row["ms"] == "":
            parts.append(f"{row['contender']}: {row['error'] or 'no times'}")
        else:
            parts.append(f"{row['contender']} {row['ms']:.2f} ms x{row['ratio']}")
    return f"{case}: " + ", ".join(parts)


if __name__ == "__main__":
    main()
