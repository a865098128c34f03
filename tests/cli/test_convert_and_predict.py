"""`flaxarch convert` and `flaxarch predict`, on a LeNet-5 of random weights."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import flaxarch
from flaxarch import pictures
from flaxarch.commands.base import UsageError
from flaxarch.commands.batches import results
from flaxarch.commands.classes import class_names, imagenet_classes
from flaxarch.convert.recognise import recognise, shapes_of
from flaxarch.ops import memory
from tests.cli.conftest import Answer, packed

DATA = Path(flaxarch.__file__).parent / "data"


# convert


def test_convert_to_torch_and_back_is_bit_equal(lenet: Path, run, tmp_path: Path):
    answer = run("convert", lenet, tmp_path / "x.pth")
    assert answer.status == 0
    assert "lenet5 with flaxarch's names, 10 classes, 61,706 parameters" in answer.out
    assert "10 tensors" in answer.out
    run("convert", tmp_path / "x.pth", tmp_path / "y.safetensors", "--name", "lenet5")
    (_, first), (_, second) = flaxarch.load(lenet), flaxarch.load(tmp_path / "y.safetensors")
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pth", "y.safetensors"]


def test_converted_file_tells_classes_and_where_it_is_from(lenet: Path, run, tmp_path: Path):
    (tmp_path / "names.txt").write_text("# of digits\nno\nyes\n")
    command = ["convert", lenet, tmp_path / "x.safetensors", "--num-classes", 2]
    answer = run(*command, "--classes", tmp_path / "names.txt", "--json")
    assert "the head of 2 is new" in answer.err
    assert answer.document["read"]["num_params"] == 61_706
    assert answer.document["written"]["num_classes"] == 2
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"]) == ["no", "yes"]
    provenance = json.loads(metadata["provenance"])
    assert provenance["file"] == "lenet.safetensors"
    assert provenance["source"] == "flaxarch"
    assert len(provenance["sha256"]) == 64
    assert provenance["head"] == "new, of 2 classes instead of 10"


def test_convert_overwrites_only_when_told_to(lenet: Path, run, refused, tmp_path: Path):
    output = tmp_path / "x.safetensors"
    output.write_bytes(b"precious")
    assert "is there already: --force writes over it" in refused("convert", lenet, output)
    assert output.read_bytes() == b"precious"
    assert run("convert", lenet, output, "--force").status == 0
    assert flaxarch.load(output)[0] == flaxarch.create("lenet5")


def test_a_conversion_that_fails_leaves_what_was_there(lenet: Path, refused, tmp_path: Path):
    output = tmp_path / "x.safetensors"
    output.write_bytes(b"precious")
    (tmp_path / "cut.safetensors").write_bytes(lenet.read_bytes()[:-100])
    refused("convert", tmp_path / "cut.safetensors", output, "--force", status=1)
    assert output.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.safetensors", "x.safetensors"]


@pytest.mark.parametrize(
    ("argv", "sentence", "status"),
    [
        (["{lenet}", "x.h5"], "x.h5 has to end in .safetensors (flaxarch's own), .pth or .pt", 2),
        (["nowhere.pth", "x.pth"], "nowhere.pth: No such file", 2),
        (["{lenet}", "nowhere/x.pth"], "there is no folder nowhere", 2),
        (["{lenet}", "{lenet}", "--force"], "would be written over while it is read", 2),
        (["{lenet}", "folder.pth"], "folder.pth is a folder", 2),
        (["{lenet}", "x.pth", "--num-classes", "0"], "--num-classes is 0", 2),
        (["{lenet}", "x.pth", "--in-channels", "-1"], "--in-channels is -1", 2),
        (["{lenet}", "x.pth", "--classes", "two.txt"], "holds no names of classes", 2),
        (["{lenet}", "x.safetensors", "--library", "timm"], "--library is for torch files", 2),
        (["{lenet}", "x.pth", "--library", "timm"], "there are no names of timm for LeNet5", 1),
        (["{lenet}", "x.safetensors", "--classes", "two.txt"], "names 2 classes, and the network has 10", 2),
        (["{lenet}", "x.safetensors", "--classes", "none.txt"], "none.txt is not there", 2),
        (["{lenet}", "x.pth", "--name", "lenet_5"], "lenet_5", 1),
        (["{lenet}", "x.pth", "--name", "resnet20"], "holds a lenet5, not a resnet20", 1),
        (["two.txt", "x.pth"], "two.txt: no format that is read here", 1),
    ],
)
def test_convert_refuses(
    argv: list[str], sentence: str, status: int, lenet: Path, run, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("no\nyes\n")
    Path("folder.pth").mkdir()
    answer = run("convert", *(x.format(lenet=lenet) for x in argv))
    assert answer.status == status
    assert sentence in answer.err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.pth", "two.txt"]


# predict


def test_predict_gives_the_softmax_of_the_network(lenet: Path, photos: Path, run):
    document = run("predict", photos, "--weights", lenet, "--json", "--top", "3").document
    assert [Path(x["path"]).name for x in document["pictures"]] == ["img2.png", "img10.png", "x.jpg"]
    assert (document["classes"], document["unreadable"]) == ("digits", [])
    model, variables = flaxarch.load(lenet)
    _, apply = flaxarch.functional(model)
    image = flaxarch.preprocess("lenet5")(photos / "img2.png")
    logits, _ = apply(variables["params"], {}, image[None], train=False)
    expected = np.asarray(jax.nn.softmax(logits[0]))
    top = document["pictures"][0]["top"]
    assert [x["class"] for x in top] == np.argsort(-expected)[:3].tolist()
    np.testing.assert_allclose([x["probability"] for x in top], np.sort(expected)[::-1][:3], rtol=1e-5)
    assert all(x["name"] == str(x["class"]) for x in top)


def test_predict_keeps_memory_unless_told_not_to(
    lenet: Path, photos: Path, run, monkeypatch: pytest.MonkeyPatch
):
    kept: list[bool] = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: kept.append(True))
    for wanted in (False, True):
        monkeypatch.setenv("FLAXARCH_KEEP_MEMORY", str(int(wanted)))
        run("predict", photos, "--weights", lenet)
        assert kept == [True] * wanted


def test_batches_change_no_prediction(lenet: Path, photos: Path, run, tmp_path: Path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"digit-{i}" for i in range(10)))
    expected = run("predict", photos, "--weights", lenet, "--json").document["pictures"]
    for batch_size in (1, 2):
        answer = run(
            *("predict", photos, "--weights", lenet, "--top", 1),
            *("--batch-size", batch_size, "--classes", names),
        )
        lines = [line.split() for line in answer.out.splitlines()]
        assert [(path, name) for path, _, _, name in lines] == [
            (x["path"], f"digit-{x['top'][0]['class']}") for x in expected
        ]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_predict_reads_tars_like_folders(suffix: str, lenet: Path, photos: Path, run):
    path = packed(photos, suffix)
    in_tar = run("predict", path, "--weights", lenet, "--json").document["pictures"]
    in_folder = run("predict", photos, "--weights", lenet, "--json").document["pictures"]
    assert {x["path"].removeprefix(f"{path}/photos/"): x["top"] for x in in_tar} == {
        x["path"].removeprefix(f"{photos}/"): x["top"] for x in in_folder
    }


def test_predict_keeps_the_order_given_and_looks_patterns_up(lenet: Path, photos: Path, run):
    paths = [photos / "inner", photos / "*.png", photos / "img10.png"]
    found = run("predict", *paths, "--weights", lenet, "--json").document["pictures"]
    names = [Path(x["path"]).name for x in found]
    assert names == ["x.jpg", "img2.png", "img10.png", "img10.png"]


def test_unreadable_pictures_are_named_and_counted_and_the_others_predicted(
    lenet: Path, photos: Path, run, tmp_path: Path
):
    (photos / "broken.png").write_bytes((photos / "img2.png").read_bytes()[:100])
    (photos / "gone.jpg").symlink_to("nowhere")
    packed(photos, ".tar")
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tmp_path / "photos.tar").read_bytes()[:3000])
    answer = run("predict", photos, cut, photos / "img2.png", "--weights", lenet, "--json")
    assert answer.status == 1
    assert [Path(x["path"]).name for x in answer.document["unreadable"]][:2] == ["broken.png", "gone.jpg"]
    assert answer.document["unreadable"][-1]["path"] == str(cut)
    assert "not a whole tar file" in answer.document["unreadable"][-1]["problem"]
    assert Path(answer.document["pictures"][-1]["path"]).name == "img2.png"
    assert "pictures could not be read" in answer.err


def test_names_of_classes_are_those_of_the_file_the_checkpoint_or_the_data_set(lenet: Path, tmp_path: Path):
    row, found = flaxarch.published("lenet5"), recognise(lenet)
    assert class_names(found, row, None) == (tuple("0123456789"), "digits")
    cifar, resnet = flaxarch.published("resnet20"), found._replace(model=flaxarch.create("resnet20"))
    assert class_names(resnet, cifar, None)[0][:2] == ("airplane", "automobile")
    three = found._replace(model=flaxarch.create("lenet5", num_classes=3))
    assert class_names(three, row, None)[0] == ("class 0", "class 1", "class 2")
    named = three._replace(classes=("ape", "bee", "cow"))
    assert class_names(named, row, None) == (("ape", "bee", "cow"), "the checkpoint")
    names = tmp_path / "names.txt"
    names.write_text("dog\n\neel\nfox\n")
    assert class_names(named, row, names) == (("dog", "eel", "fox"), str(names))


def test_preprocessing_in_the_checkpoint_goes_before_the_rows(lenet: Path, photos: Path, run, tmp_path: Path):
    with safetensors.safe_open(lenet, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    made = json.loads(metadata["preprocessing"])

    def predicted(**changes: Any) -> Answer:
        path = tmp_path / "x.safetensors"
        content = safetensors.numpy.save(tensors, metadata | {"preprocessing": json.dumps(made | changes)})
        path.write_bytes(content)
        return run("predict", photos / "img2.png", "--weights", path, "--json")

    assert predicted().document["pictures"] != predicted(mean=[0.9]).document["pictures"]
    for nonsense in ({"mean": "grey"}, {"std": [0]}, {"resize": -3}, {"input_shape": [28]}, {"mean": [0, 0]}):
        answer = predicted(**nonsense)
        assert answer.status == 1
        assert "error: x.safetensors" in answer.err


def test_a_network_of_grey_pictures_reads_coloured_ones_and_the_other_way_round(
    lenet: Path, photos: Path, run, tmp_path: Path
):
    run("convert", lenet, tmp_path / "rgb.safetensors", "--in-channels", 3)
    answer = run("predict", photos, "--weights", tmp_path / "rgb.safetensors", "--json")
    assert len(answer.document["pictures"]) == 3


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "there is nothing to predict"),
        (["nowhere.jpg"], "nothing is found at nowhere.jpg"),
        (["no*.jpg"], "nothing is found at no*.jpg"),
        (["empty"], "empty holds no picture"),
        (["empty.tar"], "there is no picture in empty.tar"),
        (["a.png", "--top", "0"], "--top is 0"),
        (["a.png", "--batch-size", "0"], "--batch-size is 0"),
        (["a.png", "--classes", "two.txt"], "two.txt names 2 classes, and the network has 10"),
    ],
)
def test_predict_refuses(argv: list[str], sentence: str, lenet: Path, refused, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    packed(Path("empty").absolute(), ".tar")
    Path("two.txt").write_text("no\nyes\n")
    Image.new("RGB", (9, 9)).save("a.png")
    assert sentence in refused("predict", *argv, "--weights", lenet)


def test_maps_of_logits_are_no_classes_of_a_picture(photos: Path):
    model = flaxarch.create("unet_resnet18")
    row = flaxarch.published("unet_resnet18")._replace(input_shape=(64, 64, 3))
    with pytest.raises(UsageError, match="gives a map of logits"):
        next(results([photos], model, shapes_of(model), row, 1, 1))


def test_weights_that_give_no_numbers_are_said_to_be_broken(
    refused, lenet: Path, tmp_path: Path, photos: Path
):
    model, variables = flaxarch.load(lenet)
    flaxarch.save(tmp_path / "x.safetensors", model, jax.tree.map(lambda x: x * np.nan, variables))
    sentence = refused("predict", photos, "--weights", tmp_path / "x.safetensors", status=1)
    assert "gives no numbers" in sentence


def test_names_that_would_steer_a_terminal_do_not_reach_it(lenet: Path, photos: Path, run):
    (photos / "img2.png").rename(photos / "\x1b[31mred.png")
    answer = run("predict", photos / "\x1b[31mred.png", "--weights", lenet)
    assert "\x1b" not in answer.out
    assert "?[31mred.png" in answer.out


def test_imagenet_has_a_thousand_different_names_in_the_order_of_their_ids():
    names = imagenet_classes()
    assert len(set(names)) == 1000
    assert (names[0], names[134], names[999]) == ("tench", "crane (n02012849)", "toilet tissue")
    lines = (DATA / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    ids = [line.split()[0] for line in lines[1:]]
    assert ids == sorted(ids)


def test_a_damaged_header_is_not_taken_for_the_end_of_a_tar():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    damaged = io.BytesIO(stream.getvalue()[:512] + b"x" * 512)
    with pytest.raises(tarfile.TarError, match="no header at byte 512"):
        list(pictures.tar_members(damaged))
