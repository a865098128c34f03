"""The page of other libraries' files, and what was kept for it."""

import pytest

from benchmarks.weights import kept, libraries, page
from benchmarks.weights.pairs import LIBRARIES, family_of, pairs
from flaxarch.convert.sources import SOURCES
from flaxarch.registry import FAMILIES, list_models

KEPT = kept.read()


def test_page_is_what_was_kept():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


@pytest.mark.parametrize("name", KEPT["pairs"])
def test_every_file_that_was_read_is_within_the_contract(name: str):
    pair = KEPT["pairs"][name]
    assert pair["formats"]
    for file in pair["formats"].values():
        assert file["error"] < page.CLOSE
        assert pair["row"] in file["recognised"]


@pytest.mark.parametrize("name", [name for name, x in KEPT["pairs"].items() if x["library"] != "Keras"])
def test_every_network_of_torch_was_given_back(name: str):
    back = KEPT["pairs"][name]["back"]
    assert back["bits"]
    assert back.get("error", 0) < page.CLOSE


def test_every_pair_in_every_format_was_kept_and_none_is_unknown():
    known = pairs()
    assert {name for name, pair in known.items() if pair.in_every_format} <= KEPT["pairs"].keys()
    assert KEPT["pairs"].keys() <= known.keys()


def test_every_family_that_a_library_has_and_a_row_reads_is_a_pair():
    read = {(x["family"], key.partition(" ")[0]) for key, x in KEPT["catalogue"].items() if x["rows"]}
    assert read == {(x["family"], x["library"]) for x in KEPT["pairs"].values()}


def test_kept_rows_and_families_are_those_of_the_registry():
    entries = [*KEPT["catalogue"].values(), *KEPT["keys"].values()]
    assert {row for x in entries for row in x["rows"]} <= set(list_models())
    names = {family.__name__.rpartition(".")[2] for family in FAMILIES}
    assert {x["family"] for x in entries} <= names
    for x in KEPT["pairs"].values():
        assert family_of(x["row"]).__name__.endswith(f".{x['family']}")


def test_every_library_with_rules_is_on_the_page():
    sources = {source.rules.source for source in SOURCES if not callable(source.rules)}
    assert set(LIBRARIES.values()) <= sources


@pytest.mark.parametrize(
    ("library", "path", "family"),
    [
        ("torchvision", "resnet/wide_resnet50_2", "resnet"),
        ("torchvision", "mobilenetv3/mobilenet_v3_small", "mobilenet_v3"),
        ("torchvision", "swin_transformer/swin_t", None),
        ("timm", "resnet/seresnet18", "senet"),
        ("timm", "resnet/resnetaa50", "resnet"),
        ("timm", "resnet/test_resnet", None),
        ("timm", "mobilenetv3/tf_mobilenetv3_large_100", "mobilenet_v3"),
        ("Keras", "ResNet50V2", "preact_resnet"),
        ("Keras", "MobileNetV3Large", "mobilenet_v3"),
        ("Keras", "EfficientNetB0", None),
        ("pytorchcv", "wrn_cifar/wrn16_10_cifar10", "wide_resnet"),
    ],
)
def test_family_of_a_library_network_is_told_by_its_name(library: str, path: str, family: str | None):
    assert libraries.family(library, path) == family
