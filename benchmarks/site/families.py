"""The page of a family: its docstring, its blocks as pictures, and its rows with counts and parity."""

import inspect
import json
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import flaxarch
from benchmarks import models
from benchmarks.site.draw import draw
from benchmarks.site.graph import blocks_of, graph
from benchmarks.site.text import fenced, linked
from flaxarch.registry import FAMILIES

# What is drawn: rows, and paths of blocks in them; "" is the whole network, "*" the whole, a node a module.
SHOWN: dict[str, tuple[tuple[str, str], ...]] = {
    "lenet": (("lenet5", ""),),
    "alexnet": (("alexnet", ""), ("alexnet_2012", "")),
    "vgg": (("vgg11", ""),),
    "nin": (("nin_cifar10", "mlpconv1"), ("nin_cifar10", "")),
    "googlenet": (("googlenet_paper", "inception3a"), ("googlenet", "inception3a")),
    "bn_inception": (("bn_inception", "inception_3a"), ("bn_inception", "inception_3c")),
    "inception_v3": tuple(
        ("inception_v3", name) for name in ("Mixed_5b", "Mixed_6a", "Mixed_6b", "Mixed_7a", "Mixed_7c")
    ),
    "inception_v4": tuple(
        ("inception_v4", f"{name}1") for name in ("inception_a", "inception_b", "inception_c")
    ),
    "inception_resnet": tuple(
        ("inception_resnet_v2", name) for name in ("block35_1", "block17_1", "block8_1", "mixed_7a")
    ),
    "resnet": (
        ("resnet18", "layer1_0"),
        ("plain18", "layer1_0"),
        ("resnet50", "layer1_1"),
        ("resnet50", "layer2_0"),
        ("resnext50_32x4d", "layer1_1"),
    ),
    "cifar_resnet": (("resnet20", "layer1_0"), ("resnet20", "layer2_0"), ("resnet20_b", "layer2_0")),
    "wide_resnet": (("wrn_28_10", "layer1_0"), ("wrn_28_10", "layer1_1")),
    "senet": (("seresnet50", "layer1_1"),),
    "dpn": (("dpn92", "conv2_1"), ("dpn92", "conv2_2")),
    "preact_resnet": (("preact_resnet110", "layer1_1"), ("preact_resnet164", "layer1_1")),
    "densenet": (
        ("densenet121", "block1_layer1"),
        ("densenet_40_12", "block1_layer1"),
        ("densenet121", "transition1"),
    ),
    "squeezenet": (("squeezenet1_0", "fire2"), ("squeezenet1_0_bypass", "*")),
    "xception": (("xception", "block2"), ("xception", "block5")),
    "mobilenet": (("mobilenet_100", "block2"),),
    "mobilenet_v2": (("mobilenet_v2", "block3"), ("mobilenet_v2", "block2")),
    "mobilenet_v3": (("mobilenet_v3_large", "block4"), ("mobilenet_v3_large", "block11")),
    "shufflenet_v2": (("shufflenet_v2_x1_0", "stage2_1"), ("shufflenet_v2_x1_0", "stage2_0")),
    "unet": (("unet", "inc"), ("unet_same_bn", "inc"), ("unet", "*")),
    "airbench": (("airbench94", "group1"), ("airbench96", "group1")),
    "ode_resnet": tuple(
        (name, "layer1_0") for name in ("ode_resnet", "ode_resnet_antisymmetric", "ode_resnet_lipschitz")
    ),
}


def name_of(family: ModuleType) -> str:
    """The file's name: "resnet"."""
    return family.__name__.rpartition(".")[2]


def title_of(family: ModuleType) -> str:
    """What the docstring begins with: "ResNet"."""
    return _first_line(family).partition(":")[0]


def year_of(family: ModuleType) -> int:
    """The first year in the docstring."""
    found = re.search(r"\b(19|20)\d\d\b", family.__doc__ or "")
    if found is None:
        raise ValueError(f"the docstring of {family.__name__} has no year")
    return int(found[0])


def by_year() -> list[ModuleType]:
    """The families, from the first to the last."""
    return sorted(FAMILIES, key=year_of)


def page(family: ModuleType) -> str:
    """The page of a family, in Markdown."""
    parity = json.loads(models.PARITY.read_text(encoding="utf-8"))
    name = name_of(family)
    first, _, rest = (family.__doc__ or "").partition("\n")
    lines = [f"# {title_of(family)}", "", linked(first), "", linked(fenced(rest.strip())), ""]
    lines += ["## Blocks", "", _HEADING, "", '<div class="blocks">']
    lines += _figures(SHOWN[name])
    lines += ["</div>", "", "## Networks", "", _ROWS, ""]
    lines += ["| " + " | ".join(models.COLUMNS) + " |", "|" + " --- |" * len(models.COLUMNS)]
    lines += ["| " + " | ".join(cells) + " |" for cells in models.rows(family, parity)]
    classes = _modules(family)
    lines += ["", "## Modules", "", f"Of `{family.__name__}`."] if classes else []
    lines += [f"\n::: {cls.__module__}.{cls.__qualname__}\n{_OPTIONS}" for cls in classes]
    return "\n".join(lines) + "\n"


_HEADING = (
    "Drawn from the modules, by what their evaluation computes. Ovals are the maps that come in and go out: "
    "height, width, channels."
)
_ROWS = "Columns and measures are those of [all networks](../models.md)."
_OPTIONS = "    options:\n      heading_level: 3\n      members: false"


def _figures(shown: Sequence[tuple[str, str]]) -> list[str]:
    """Blocks' pictures, each with what it is: a line, as Markdown leaves it alone."""
    figures = []
    for row in dict.fromkeys(row for row, _ in shown):
        paths = [path for name, path in shown if name == row]
        model, input_shape = flaxarch.create(row), flaxarch.published(row).input_shape
        found = blocks_of(model, [path.strip("*") for path in paths], input_shape)
        for path in paths:
            module, shape = found[path.strip("*")]
            title = f"{row} {path}".strip(" *")
            picture = draw(graph(module, shape, is_collapsed=path == "*"), title)
            where = "".join(f"<code>{name}</code>, " for name in title.split())
            about = "the network" if path in ("", "*") else _sentence(module)
            # a scrolled box is to be reached by the keyboard too
            box = f'<div tabindex="0" role="group" aria-label="{title}">{picture}</div>'
            figures.append(f"<figure><figcaption>{where.rstrip(', ')}: {about}</figcaption>{box}</figure>")
    return figures


def _sentence(module: Any) -> str:
    """What a block's docstring says first, without shapes."""
    first = inspect.cleandoc(type(module).__doc__ or "").partition("\n\n")[0]
    first = re.split(r":? \(N, ", " ".join(first.split()))[0].rstrip(".:")
    return first.replace("<", "&lt;")


def _modules(family: ModuleType) -> list[type]:
    """The public linen modules of a family's file, in its order."""
    classes = [x for x in vars(family).values() if inspect.isclass(x) and x.__module__ == family.__name__]
    return [x for x in classes if hasattr(x, "apply") and not x.__name__.startswith("_")]


def _first_line(family: ModuleType) -> str:
    return (family.__doc__ or "").partition("\n")[0]
