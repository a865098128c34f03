"""How long the paths through a residual network are."""

from benchmarks.claims.claim import Check, Claim, Measured, Places
from flaxarch.depth import decayed_lengths, num_effective_blocks, path_lengths

BLOCKS = 54  # of ResNet-110


def measure(seed: int, places: Places) -> Measured:
    """Exact shares of the 2^54 paths; and what one decay per block makes of them."""
    del seed, places
    shares, effective = path_lengths(BLOCKS), decayed_lengths(BLOCKS, 0.25)
    mean = sum(length * share for length, share in enumerate(shares))
    return Measured(
        {
            "mean length": float(mean),
            "share of lengths 19 to 35": float(shares[19:36].sum()),
            "share of lengths 5 to 17": float(shares[5:18].sum()),
            "gradient in lengths 5 to 17 at ρ = 0.25": float(effective[5:18].sum()),
            "blocks to train with at ρ = 0.27": num_effective_blocks(BLOCKS, 0.27),
        },
        {"paths": list(shares), "gradient at ρ = 0.25": list(effective)},
    )


CLAIM = Claim(
    "Paths of ResNet-110 have a binomial length; those of 5 to 17 blocks are 0.45 % of them.",
    "Veit et al. 2016, Sec. 5 and Fig. 6",
    "Computed exactly: C(54, k) of the 2^54 paths have length k. The paper says that more than 95 % have "
    "19 to 35 blocks, that almost all gradient comes from 5 to 17, and trains with 23 blocks at a time. "
    "If a path's gradient falls by ρ with each block, the lengths that carry it are binomial too, with "
    "chance ρ / (1 + ρ): ρ = 0.25 puts nearly all of it into 5 to 17, and ρ = 0.27 gives the 23 blocks, "
    "as 2 n ρ / (1 + ρ).",
    measure,
    (
        Check("mean length", 27 - 1e-9, 27 + 1e-9),
        Check("share of lengths 19 to 35", low=0.95),
        Check("share of lengths 5 to 17", 0.0045, 0.0046),
        Check("gradient in lengths 5 to 17 at ρ = 0.25", low=0.95),
        Check("blocks to train with at ρ = 0.27", 22.5, 23.5),
    ),
    x="length of path",
    y="share",
    first_x=0,
)
