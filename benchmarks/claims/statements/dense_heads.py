"""Dense layers against a global average pool: where VGG-16's and AlexNet's parameters are."""

import flaxarch
from benchmarks.claims.claim import Check, Claim, Measured, Places


def measure(seed: int, places: Places) -> Measured:
    """Parameters of the dense layers, and of the network with a pool and one dense layer in their place."""
    del seed, places
    values: dict[str, float] = {}
    for name in ("vgg16", "alexnet_2012_ungrouped"):
        found = flaxarch.cost(flaxarch.create(name), flaxarch.published(name).input_shape)
        dense = sum(part.num_params for path, part in found.by_module(1).items() if path.startswith("fc"))
        values[f"share of {name} in dense layers"] = dense / found.num_params
        if name == "vgg16":
            values["dense parameters of vgg16"] = dense
            pooled = found.num_params - dense + 512 * 1000 + 1000
            values["vgg16 over vgg16 with a pool"] = found.num_params / pooled
    return Measured(values)


CLAIM = Claim(
    "Nine tenths of VGG-16 are in its dense layers; a global average pool takes a network a ninth as large.",
    "Lin et al. 2014 (Network in Network), Sec. 3.2; Szegedy et al. 2015, Sec. 5",
    "Counted by `flaxarch.cost`. With a pool, one dense layer of 512 inputs gives the logits. What this does "
    "to accuracy is another claim.",
    measure,
    (
        Check("dense parameters of vgg16", 123_642_856, 123_642_856),
        Check("share of vgg16 in dense layers", 0.893, 0.895),
        Check("share of alexnet_2012_ungrouped in dense layers", 0.935, 0.965),
        Check("vgg16 over vgg16 with a pool", 9.0, 9.2),
    ),
)
