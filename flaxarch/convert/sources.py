"""Which rules read which family, and which rows a source has released."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flaxarch.convert import keras, torchvision
from flaxarch.convert.rules import Rules
from flaxarch.layers import Network
from flaxarch.models import resnet, wide_resnet


class Source(NamedTuple):
    """One table of rules, the family that it names, and the rows that its files are recognised as.

    Where names depend on more than the family, as the numbers of VGG's layers do, `rules` makes the table for
    a model.
    """

    rules: Rules | Callable[[Any], Rules]
    family: type[Network]
    rows: tuple[str, ...] = ()

    def rules_of(self, model: Network) -> Rules:
        """The table for one model of the family."""
        return self.rules if isinstance(self.rules, Rules) else self.rules(model)


def _of(family_rows: dict, source: str) -> tuple[str, ...]:
    return tuple(name for name, row in family_rows.items() if row.source.startswith(source))


SOURCES = (
    Source(torchvision.RESNET, resnet.ResNet, _of(resnet.VARIANTS, "torchvision")),
    Source(torchvision.CIFAR_RESNET, resnet.ResNet, tuple(f"resnet{d}" for d in (20, 32, 44, 56, 110, 1202))),
    Source(keras.RESNET, resnet.ResNet, _of(resnet.VARIANTS, "Keras")),
    Source(torchvision.RESNET, wide_resnet.WideResNet),  # in torchvision's manner: it has no such network
)
