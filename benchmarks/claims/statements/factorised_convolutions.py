"""Large kernels as several small ones, and as a row and a column."""

from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.statements._stacks import cost

SIZE, FEATURES = 17, 64


def measure(seed: int, places: Places) -> Measured:
    """Share of the MACs that is saved, features being equal everywhere."""
    del seed, places

    def saved(whole: int, *parts: tuple[int, int]) -> float:
        direct = cost(SIZE, FEATURES, (FEATURES, (whole, whole)))
        return 1 - cost(SIZE, FEATURES, *((FEATURES, part) for part in parts)).macs / direct.macs

    return Measured(
        {
            "5x5 as two 3x3": saved(5, (3, 3), (3, 3)),
            "3x3 as 1x3 and 3x1": saved(3, (1, 3), (3, 1)),
            "7x7 as 1x7 and 7x1": saved(7, (1, 7), (7, 1)),
            "3x3 as two 2x2": saved(3, (2, 2), (2, 2)),
        }
    )


CLAIM = Claim(
    "Two 3x3 save 28 % of a 5x5, a row and a column 33 % of a 3x3; two 2x2 would save 11 %.",
    "Szegedy et al. 2016 (Inception v3), Sec. 3.1 and 3.2",
    "Counted by `flaxarch.cost` with as many features in between as at both ends.",
    measure,
    (
        Check("5x5 as two 3x3", 1 - 18 / 25 - 1e-12, 1 - 18 / 25 + 1e-12),
        Check("3x3 as 1x3 and 3x1", 1 / 3 - 1e-12, 1 / 3 + 1e-12),
        Check("7x7 as 1x7 and 7x1", 1 - 2 / 7 - 1e-12, 1 - 2 / 7 + 1e-12),
        Check("3x3 as two 2x2", 1 / 9 - 1e-12, 1 / 9 + 1e-12),
    ),
)
