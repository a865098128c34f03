"""`flaxarch explain`, on a LeNet-5 of random weights."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flaxarch
from flaxarch import pictures
from flaxarch.commands import explain
from flaxarch.commands.base import UsageError
from flaxarch.explain import report

CHEAP = ("--methods", "grad-cam")


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_explain_writes_a_page_and_a_png_of_every_picture(lenet: Path, photos: Path, run, tmp_path: Path):
    name = '<b onload="x">&$x_{$ 猫 a_name_of_many_letters_without_a_space_as_cameras_give_them.png'
    (photos / name).write_bytes((photos / "img2.png").read_bytes())
    out = tmp_path / "new" / "out"
    methods = ("grad-cam", "activations", "filters")
    command = [photos / name, photos / "inner", "--weights", lenet, "--json"]
    answer = run("explain", *command, "--out", out, "--methods", *methods)
    assert answer.status == 0
    document = answer.document
    assert [Path(x["path"]).name for x in document["pictures"]] == [name, "x.jpg"]
    assert document["methods"] == list(methods)
    assert document["files"] == [str(out / "explain.png"), str(out / "explain.html")]
    assert sorted(path.name for path in out.iterdir()) == ["explain.html", "explain.png"]
    likeliest = run("predict", *command, "--top", 1).document["pictures"]
    for mine, its in zip(document["pictures"], likeliest, strict=True):
        assert mine["class"] == its["top"][0]["class"]
        assert mine["probability"] == pytest.approx(its["top"][0]["probability"], rel=1e-4)
        assert mine["notes"] == {"activations": "the last feature map: 16 of 16 channels, 5x5"}
    with Image.open(out / "explain.png") as png:
        assert png.width > 3 * 2.6 * 120
        assert np.asarray(png.convert("L")).std() > 10

    page = Page(out / "explain.html")
    assert not page.open
    assert {"script", "link", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    images = page.all("img")
    assert len(images) == 2 * 3 + 1
    for image in images:
        assert re.match("data:image/(png|jpeg);base64,", image["src"] or "")
        assert (image["alt"] or "").endswith(".")
    content = (out / "explain.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|<b onload", content)
    assert name in page.text
    assert page.all("html")[0]["lang"] == "en"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_a_picture_that_cannot_be_read_is_named_and_the_others_explained(
    lenet: Path, photos: Path, run, tmp_path: Path
):
    (photos / "broken.png").write_bytes(b"no picture")
    answer = run(
        "explain", photos, "--weights", lenet, "--out", tmp_path / "out", "--class", 3, *CHEAP, "--json"
    )
    assert answer.status == 1
    assert "1 of 4 pictures could not be read" in answer.err
    (unreadable,) = answer.document["unreadable"]
    assert Path(unreadable["path"]).name == "broken.png"
    assert [x["name"] for x in answer.document["pictures"]] == ["3"] * 3
    assert "broken" not in (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")


def test_nothing_is_written_where_no_picture_can_be_read(lenet: Path, run, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    answer = run("explain", tmp_path / "broken.png", "--weights", lenet, "--out", tmp_path / "out", *CHEAP)
    assert answer.status == 1
    assert not (tmp_path / "out").exists()


def test_more_pictures_than_a_png_holds_go_on_to_the_next(
    lenet: Path, photos: Path, run, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(report, "ROWS", 2)
    answer = run("explain", photos, "--weights", lenet, "--out", tmp_path / "out", *CHEAP, "--json")
    assert [Path(x).name for x in answer.document["files"]] == [
        "explain.png",
        "explain-2.png",
        "explain.html",
    ]
    first, second = (np.asarray(pictures.decode(Path(x).read_bytes())) for x in answer.document["files"][:2])
    assert len(first) == pytest.approx(2 * len(second), abs=2)


@pytest.mark.slow
def test_every_method_has_its_place_in_the_report(lenet: Path, photos: Path, run, tmp_path: Path):
    methods = ("grad-cam", "gradient", "integrated-gradients", "occlusion", "activations", "receptive-field")
    answer = run("explain", photos / "img2.png", "--weights", lenet, "--out", tmp_path, "--methods", *methods)
    assert answer.status == 0
    page = Page(tmp_path / "explain.html")
    assert len(page.all("img")) == 1 + len(methods)
    found = re.search(r"sum ([-0-9.]+); from black, the logit rises by ([-0-9.]+)", page.text)
    assert found is not None
    assert float(found[1]) == pytest.approx(float(found[2]), abs=0.1)
    assert re.search(
        r"the last feature map: in effect a square of \d+ pixels, by its kernels 16x16", page.text
    )
    for scale in ("logits per unit of input", "of the largest", "activation"):
        assert scale in page.text


def test_what_is_there_stays_unless_told_otherwise(lenet: Path, photos: Path, run, refused, tmp_path: Path):
    (tmp_path / "explain.html").write_text("precious")
    command = ["explain", photos / "img2.png", "--weights", lenet, "--out", tmp_path, *CHEAP]
    assert "explain.html is there already: --force writes over it" in refused(*command)
    assert (tmp_path / "explain.html").read_text() == "precious"
    assert run(*command, "--force").status == 0
    assert "precious" not in (tmp_path / "explain.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "sentence", "status"),
    [
        (["--methods", "grad_cam"], "invalid choice 'grad_cam'", 2),
        (["--methods", "cam"], "LeNet5 has no class activation maps", 2),
        (["--methods", "guided-backprop"], "LeNet5 has no ReLU to guide", 2),
        (["--methods", "grad-cam", "cam", "grad-cam"], "--methods names grad-cam twice", 2),
        (["--layer", "c9"], "LeNet5 has no layer 'c9': there are c1, c3, c5, f6, output", 2),
        (
            ["--layer", "output"],
            "output gives no map with height and width: what it gives of an image is 1x1x10",
            2,
        ),
        (["--layer", "c1", "--methods", "occlusion"], "--layer is for grad-cam, activations, receptive", 2),
        (["--class", "10"], "there is no class 10: they are numbered from 0 to 9", 2),
        (["--class", "nine"], "there is no class 'nine'", 2),
        (["--name", "resnet20"], "holds a lenet5, not a resnet20", 1),
        (["--classes", "none.txt"], "none.txt is not there", 2),
        (["--out", "file"], "file is a file: --out is the folder to write to", 2),
    ],
)
def test_explain_refuses(
    argv: list[str], sentence: str, status: int, lenet: Path, photos: Path, run, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    out = [] if "--out" in argv else ["--out", "out"]
    answer = run("explain", photos, "--weights", lenet, *out, *argv)
    assert answer.status == status
    assert sentence in answer.err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]


def test_a_missing_matplotlib_is_one_sentence(
    lenet: Path, photos: Path, refused, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(explain, "find_spec", lambda name: None)
    sentence = refused("explain", photos, "--weights", lenet, "--out", tmp_path / "out")
    assert sentence.endswith("which is missing: pip install 'flaxarch[report]'")


def test_a_class_is_meant_by_its_number_its_name_or_a_part_of_one():
    names = ("tench", "tiger", "tiger cat", "Egyptian cat", "7")
    for given, number in (("2", 2), ("TENCH", 0), ("tiger", 1), ("egypt", 3), ("7", 4)):
        assert explain.class_number(given, names) == number
    for given, sentence in (
        ("cat", "'cat' may mean tiger cat, Egyptian cat: name one of them"),
        ("tenhc", "there is no class 'tenhc': did you mean tench"),
        ("-1", "there is no class -1: they are numbered from 0 to 4"),
        ("", "there is no class ''"),
    ):
        with pytest.raises(UsageError, match=sentence):
            explain.class_number(given, names)


def test_weights_that_give_no_numbers_are_told(lenet: Path, photos: Path, refused, tmp_path: Path):
    model, variables = flaxarch.load(lenet)
    variables["params"]["output"]["bias"] = np.full(10, np.nan, np.float32)
    flaxarch.save(tmp_path / "broken.safetensors", model, variables)
    command = ["explain", photos / "img2.png", "--weights", tmp_path / "broken.safetensors", *CHEAP]
    assert "its weights are broken" in refused(*command, "--out", tmp_path / "out", status=1)
    assert not (tmp_path / "out").exists()
