"""1x1 convolutions ahead of larger ones, as GoogLeNet and the deeper ResNets have them."""

import flaxarch
from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.statements._stacks import cost


def measure(seed: int, places: Places) -> Measured:
    """Counts alone: of the released networks, and of what they stand in for."""
    del seed, places
    googlenet = flaxarch.cost(flaxarch.create("googlenet_paper"), (224, 224, 3))
    reduced = sum(googlenet.of(f"inception3a/branch3_{i}").macs for i in (0, 1))
    direct = cost(28, 192, (32, (5, 5)))
    bottleneck = flaxarch.cost(flaxarch.create("resnet50"), (224, 224, 3)).of("layer1_1")
    kernels = sum(layer.num_params for layer in bottleneck.layers if layer.macs)
    basic = cost(56, 256, (256, (3, 3)), (256, (3, 3)))
    return Measured(
        {
            "MACs of 5x5, inception 3a": direct.macs,
            "MACs of 1x1 and 5x5": reduced,
            "weights of two 3x3, 256 features": basic.num_params,
            "weights of a bottleneck, 256 features": kernels,
        }
    )


CLAIM = Claim(
    "1x1 reductions make GoogLeNet's 5x5 branch 9.7 times cheaper, and ResNet's block 16.9 times.",
    "Szegedy et al. 2015, Sec. 4; He et al. 2015, Sec. 4.1 (Fig. 5)",
    "Counted by `flaxarch.cost` on the networks themselves; the 5x5 and the 3x3 pair that they avoid as bare "
    "convolutions on the same map.",
    measure,
    (
        Check("MACs of 5x5, inception 3a", 120_422_400, 120_422_400),
        Check("MACs of 1x1 and 5x5", 12_443_648, 12_443_648),
        Check("weights of two 3x3, 256 features", 1_179_648, 1_179_648),
        Check("weights of a bottleneck, 256 features", 69_632, 69_632),
    ),
)
