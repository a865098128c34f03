"""`flaxarch compare`."""

import pytest

import flaxarch


def test_costs_are_the_rows_own(run):
    names = ("lenet5", "resnet20", "squeezenet1_1")
    documents = run("compare", *names, "--json").document
    for name, document in zip(names, documents, strict=True):
        row = flaxarch.published(name)
        assert document["name"] == name
        assert (document["num_params"], document["macs"]) == (row.num_params, row.macs)
        assert document["num_batch_stats"] == row.num_batch_stats
        assert document["fields"] == {}  # of three families


def test_ratios_are_to_the_first(run):
    out = run("compare", "resnet20", "resnet32").out
    (line,) = [line for line in out.splitlines() if line.startswith("parameters")]
    assert f"({464_154 / 269_722:.2f}x)" in line
    assert line.count("x)") == 1


def test_fields_are_those_in_which_two_of_a_family_differ(run):
    documents = run("compare", "resnet20", "resnet32_b", "--json").document
    fields = [document["fields"] for document in documents]
    assert fields[0].keys() == fields[1].keys() == {"stage_sizes", "shortcut"}
    assert (fields[0]["shortcut"], fields[1]["shortcut"]) == ("zero_pad", "projection")
    assert (fields[0]["stage_sizes"], fields[1]["stage_sizes"]) == ("3 3 3", "5 5 5")
    assert "All are ResNets. Fields that differ:" in run("compare", "resnet20", "resnet32_b").out


def test_conventions_are_told_one_by_one(run):
    fields = run("compare", "mobilenet_025", "mobilenet_025_keras", "--json").document[0]["fields"]
    assert all(key.count(".") <= 1 for key in fields)
    assert any(key.startswith("conventions.") for key in fields)
    assert "at 0x" not in str(fields)


def test_one_size_for_all(run):
    documents = run("compare", "resnet20", "resnet32", "--input-shape", 64, 48, 1, "--json").document
    assert [document["input_shape"] for document in documents] == [[64, 48, 1]] * 2
    assert documents[0]["macs"] == flaxarch.cost(flaxarch.create("resnet20"), (64, 48, 1)).macs


def test_a_pattern_stands_for_the_networks_that_it_fits(run):
    documents = run("compare", "lenet5", "lenet5_r*", "--json").document
    assert [document["name"] for document in documents] == ["lenet5", *flaxarch.list_models("lenet5_r*")]
    assert len(documents) > 1


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["resnet20"], "compare takes two networks to 8, not 1, as in"),
        (["resnet*"], "compare takes two networks to 8, not"),
        (["rsnet*"], "no network's name fits 'rsnet*'"),
        (["resnet20", "resnet21"], "there is no model named 'resnet21': did you mean"),
        (["resnet20", "vgg16", "--input-shape", "8", "8", "3"], "vgg16: "),
    ],
)
def test_compare_refuses(argv: list[str], sentence: str, refused):
    assert sentence in refused("compare", *argv)
