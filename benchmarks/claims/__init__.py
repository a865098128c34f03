"""The ledger: published statements about deep networks, each put to the test by a run.

    python -m benchmarks.claims list
    python -m benchmarks.claims run ID ... [--cifar10 DIR] [--fashion-mnist DIR] [--weights DIR]
    python -m benchmarks.claims report

One file in `statements/` is one claim: its source, the protocol, what is measured for each seed, and the
inequalities that have to hold. `run` writes `benchmarks/results/claims/ID.json` (each seed's values) and
`.csv` (curves); a seed that is there is not run again. `report` draws `docs/claims/ID.png` and gathers all
claims, with verdicts and 95 % intervals, in `docs/claims.md`. A claim may fail: then the page says so.
"""
