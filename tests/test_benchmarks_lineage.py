"""The pictures of the lineage: their facts agree with each other and with the registry."""

import json
import re
from pathlib import Path

import pytest

import flaxarch
from benchmarks.lineage.chart import SHOWN, draw_chart
from benchmarks.lineage.page import write_page
from benchmarks.lineage.points import LINES, points
from benchmarks.lineage.timeline import PAPERS, draw_timeline, place


def test_every_published_accuracy_is_of_a_row_and_one_that_imagenet_networks_have():
    found = {name: flaxarch.published(name).top1 for name in flaxarch.list_models()}
    kept = Path(flaxarch.__file__).parent / "data" / "imagenet_top1.csv"
    assert sum(map(len, found.values())) == len(kept.read_text(encoding="utf-8").splitlines()) - 1
    for name, results in found.items():
        assert all(50 < result.percent < 84 for result in results), name
        assert len({result.source for result in results}) == len(results)
        assert not results or flaxarch.published(name).num_classes == 1000


def test_what_came_later_descends_from_what_came_before():
    by_name = {paper.name: paper for paper in PAPERS}
    for paper in PAPERS:
        assert paper.line in LINES
        assert flaxarch.published(paper.row).num_params
        for parent in paper.parents:
            assert by_name[parent].year < paper.year
            assert place(by_name[parent].year) < place(paper.year)


def test_chart_shows_the_networks_that_it_names(tmp_path: Path):
    found = points()
    draw_chart(found, tmp_path / "chart.png")
    draw_timeline(tmp_path / "timeline.png")
    assert {path.read_bytes()[:4] for path in tmp_path.iterdir()} == {b"\x89PNG"}
    without = [point for point in found if point.name != "alexnet"]
    assert "alexnet" in SHOWN
    with pytest.raises(ValueError, match="no published accuracy of alexnet"):
        draw_chart(without, tmp_path / "chart.png")


def test_page_holds_every_point_and_loads_nothing(tmp_path: Path):
    found = points()
    write_page(found, tmp_path / "chart.html")
    text = (tmp_path / "chart.html").read_text(encoding="utf-8")
    data = json.loads(re.findall(r"const \{points, colours\} = (.*);\n", text)[0])
    assert [point["name"] for point in data["points"]] == [point.name for point in found]
    addresses = set(re.findall(r"https?://[^\"' ]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
