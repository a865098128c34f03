"""The lineage in pictures, drawn from the registry's rows: accuracy against operations, and the descent.

    python -m benchmarks.lineage

writes `docs/lineage/chart.png`, `chart.html` and `timeline.png`.
"""
