"""The documentation's site: built with warnings as errors, whole, and from nothing but the repository."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import flaxarch
from benchmarks.site import families
from benchmarks.site.draw import draw
from benchmarks.site.graph import Node, blocks_of, graph
from benchmarks.site.layout import place
from flaxarch import analysis, depth
from flaxarch.registry import FAMILIES

ROOT = Path(__file__).parents[1]


# Pictures of blocks


def titles(row: str, path: str) -> list[str]:
    """What is in a block's picture, without the maps at its ends."""
    return [node.title for node in nodes(row, path)][1:-1]


def nodes(row: str, path: str) -> list[Node]:
    found = blocks_of(flaxarch.create(row), [path], flaxarch.published(row).input_shape)
    return graph(*found[path])


def test_a_picture_has_what_the_block_computes_in_that_order():
    conv_norm = ["conv 3×3", "batch norm"]
    assert titles("resnet20", "layer1_0") == [*conv_norm, "ReLU", *conv_norm, "+", "ReLU"]
    assert titles("plain20", "layer1_0") == [*conv_norm, "ReLU"] * 2
    preact = ["batch norm", "ReLU", "conv 3×3"]
    assert titles("densenet_40_12", "block1_layer1") == [*preact, "concatenate"]
    assert titles("preact_resnet110", "layer1_1") == [*preact * 2, "+"]


def test_shortcuts_and_branches_are_edges():
    found = nodes("resnet20", "layer2_0")
    *_, total, _, _ = found
    ways = {found[i].title for i in total.inputs}
    assert (total.title, ways) == ("+", {"zeros for new features", "batch norm"})
    assert "stride 2" in found[1].details
    inception = nodes("googlenet_paper", "inception3a")
    assert sum(0 in node.inputs for node in inception) == 4
    assert len(next(node for node in inception if node.title == "concatenate").inputs) == 4


@pytest.mark.parametrize("row", ["lenet5", "nin_cifar10", "alexnet_2012"])
def test_a_networks_picture_has_the_layers_that_its_cost_counts(row: str):
    layers = flaxarch.cost(flaxarch.create(row), flaxarch.published(row).input_shape).layers
    counted = [re.split(" / |,", layer.kind)[0].replace("x", "×") for layer in layers if layer.macs]
    assert [node.title for node in nodes(row, "") if node.kind in ("conv", "dense")] == counted


def test_boxes_do_not_overlap_and_lie_within_the_picture():
    for row, path in (("googlenet", "inception3a"), ("dpn92", "conv2_1"), ("lenet5", "")):
        layout = place(nodes(row, path))
        corners = [
            (box.x - box.width / 2, box.y, box.x + box.width / 2, box.y + box.height) for box in layout.boxes
        ]
        for i, (left, top, right, bottom) in enumerate(corners):
            assert min(left, top) >= -1e-6
            assert right <= layout.width + 1e-6
            assert bottom <= layout.height + 1e-6
            for other in corners[:i]:
                apart = left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom
                assert apart, (row, path)


def test_a_picture_says_in_words_what_it_shows():
    picture = draw(nodes("resnet20", "layer1_0"), "a block < & >")
    assert "<title>a block &lt; &amp; &gt;</title>" in picture
    assert "(6) + of (0), (5)" in picture


def test_every_family_has_a_page_with_pictures():
    assert families.SHOWN.keys() == {families.name_of(family) for family in FAMILIES}


# The site


class Page(HTMLParser):
    """Places in a page, and what it links to and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.alts: list[str | None] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {value for key in ("id", "name") if (value := given.get(key))}
        address = given.get("href") or given.get("src") or given.get("data")
        if tag == "img":
            self.alts.append(given.get("alt"))
        if address is None:
            return
        (self.links if tag == "a" else self.loads).append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs, of the extra docs, is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    # the pages of others, such as the chart, are files of their own
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_link_of_the_site_leads_to_a_page_and_a_place_in_it(pages: dict[Path, Page]):
    assert len(pages) > 30
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data", "mailto"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.is_file() or (place and target in pages and place not in pages[target].ids | {""}):
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_nothing_on_the_site_is_loaded_from_another_host(site: Path, pages: dict[Path, Page]):
    for path, page in pages.items():
        outside = [address for address in page.loads if re.match(r"(\w+:)?//", address)]
        assert not outside, path
    for style in site.rglob("*.css"):
        loaded = re.findall(
            r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]*)", style.read_text(encoding="utf-8")
        )
        assert not loaded, style


def test_every_picture_has_words_for_who_cannot_see_it(pages: dict[Path, Page]):
    for path, page in pages.items():
        assert all(page.alts), path


def test_the_reference_has_every_public_name(site: Path, pages: dict[Path, Page]):
    ids = pages[site / "api.html"].ids
    names = {identifier.rpartition(".")[2] for identifier in ids}
    missing = {*flaxarch.__all__, *depth.__all__, *analysis.__all__} - names
    assert not missing


def test_a_familys_page_has_its_rows_and_its_words(site: Path):
    for family in FAMILIES:
        text = (site / "families" / f"{families.name_of(family)}.html").read_text(encoding="utf-8")
        assert all(f"<code>{row}</code>" in text for row in family.VARIANTS)
        assert text.count('<svg class="block"') == len(families.SHOWN[families.name_of(family)])
        assert "::: " not in text
        assert "&gt;&gt;&gt;" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
