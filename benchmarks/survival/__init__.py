"""What kills cost a run: `benchmarks/results/survival.json`, and the page of it, `docs/survival.md`.

    python -m benchmarks.survival

A run is made in one go, and then the same run is stopped at random moments and started again until it ends.
The page says how, and shows the counts and how long it took.
"""
