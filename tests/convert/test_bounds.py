"""Regression tests of what fuzzing found: time, memory and sentences of damaged and malicious files."""

import json
import struct
import time
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import flaxarch
from flaxarch.convert import CheckpointError, archive, bounds, hdf5_tree, read_checkpoint
from flaxarch.convert.rules import FLAXARCH, Rules
from flaxarch.convert.strict import fill
from flaxarch.convert.unpickle import MAX_OPCODES
from tests.convert.torch_writer import WEIGHTS, refusal, tensors, zip_format

# Safetensors


def written(header, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(first: int, last: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (
            {"a": entry(0, 4, [2])},
            "tensor 'a': it has data_offsets 0 to 4, which its shape and dtype do",
        ),
        ({"a": entry(0, 8, [1]), "b": entry(0, 4, [1])}, "tensor 'a': it has data_offsets 0 to 8"),
        ({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, "tensor 'b', at byte 1.., overlaps"),
        ({"a": entry(4, 8, [1])}, "tensor 'a', at byte .., leaves bytes unused before it"),
        ({"a": entry(0, 4, [1])}, "byte 7.: the bytes from here on belong to no tensor"),
        ({"a": entry(0, 8, [-1])}, "tensor 'a': it has a shape that is no list of up to 64 sizes"),
        ({"a": entry(0, 0, [2**62, 2**62, 0])}, "tensor 'a': it has an absurd shape"),
        ({"a": entry(0, 2**60, [2**58])}, "tensor 'a': it has data_offsets that are no range of the 8 bytes"),
        (
            {"a": entry(0, 8, [2]) | {"x": 1}},
            "tensor 'a': it is not described by dtype, shape and data_offsets",
        ),
        ({"a": entry(0, 8, [2], "F4")}, "tensor 'a': it has the unsupported dtype 'F4'"),
        (b'{"a": 1, "a": 2}', "byte 8: the JSON has the key 'a' twice"),
        (b'{"a": [1,, 2]}', "byte 17: this is no JSON"),
        (b'{"a": "\xff"}', "byte 15: the JSON is no UTF-8 text"),
        (b'{"a": ' + b"[" * 10**5, "byte 8: the JSON is nested too deeply"),
        (b'{"a": ' + b"9" * 10**4 + b"}", "byte 8: the JSON is nested too deeply, or has absurd numbers"),
        ({"__metadata__": {"a": 1}}, "byte 8: the metadata in the header is not text by name"),
    ],
)
def test_a_header_of_safetensors_that_lies_is_refused_with_tensor_or_byte(header, sentence: str, file):
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(file(written(header, bytes(8)), "model.safetensors"))


def test_a_huge_header_is_not_parsed(file):
    content = written({"__metadata__": {"x": "y" * bounds.MAX_JSON}})
    assert "byte 0: a header of 8,388,6" in refusal(file(content))


def test_the_tensors_of_safetensors_are_views_of_the_mapped_file(file):
    array = read_checkpoint(file(safetensors.numpy.save(WEIGHTS))).tensors["conv.weight"]
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_a_part_may_hold_no_tensor_that_the_index_does_not_place_there(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(1), "b": np.ones(1)}, tmp_path / "part.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    assert "tensor 'b' is in 'part.safetensors', and not by the index" in refusal(path)


# Zip


def test_entries_of_one_name_are_refused(file):
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zip_format(tensors(), entries={"version": b"4"})
    assert "two entries 'archive/version'" in refusal(file(content))


def test_entries_that_share_their_bytes_are_refused(file):
    content = bytearray(zip_format(tensors()))
    places = [i for i in range(len(content)) if content[i : i + 4] == b"PK\1\2"]
    content[places[3] + 42 : places[3] + 46] = content[places[2] + 42 : places[2] + 46]
    assert "entry 'archive/data/1' of the zip archive: byte" in refusal(file(content))


def test_the_number_of_entries_is_bounded(file, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 5)
    assert "a zip archive of 6 entries is over 5" in refusal(file(zip_format(tensors())))


def test_a_zip64_archive_is_read(tmp_path):
    path, whole = tmp_path / "model.pth", tmp_path / "whole.pth"
    whole.write_bytes(zip_format(tensors()))
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            with target.open(name, "w", force_zip64=True) as stream:
                stream.write(source.read(name))
    assert read_checkpoint(path).tensors.keys() == WEIGHTS.keys()


# Pickles


def test_a_flood_of_opcodes_ends_in_time(file):
    start = time.process_time()
    content = b"\x80\x02" + b"N0" * (MAX_OPCODES // 2) + b"N."
    assert "more than 1,048,576 opcodes" in refusal(file(content))
    assert time.process_time() - start < 10


def test_the_entry_that_is_no_tensor_is_named(file):
    assert "'epoch' is no tensor" in refusal(file(zip_format(tensors() | {"epoch": 3})))


# HDF5


def hdf5(path, write):
    with h5py.File(path, "w") as file:
        write(file)
    return path


def of_keras3(**variables):
    def write(file):
        group = file.create_group("layers/dense/vars")
        for name, value in variables.items():
            group[name[1:]] = value

    return write


def test_bfloat16_as_keras_3_writes_it_is_read(tmp_path):
    array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)

    def write(file):
        of_keras3(_0=array.view("V2"))(file)
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"

    (tensor,) = read_checkpoint(hdf5(tmp_path / "x.weights.h5", write)).tensors.values()
    assert tensor.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensor, array)


def looped(file):
    of_keras3(_0=np.ones(3))(file)
    file["layers/dense/loop"] = file["layers"]


def deep(file):
    for _ in range(100):
        file = file.create_group("layer")


def two_names(file):
    of_keras3(_0=np.ones(3))(file)
    file["layers/dense/vars"].attrs["name"] = ["a", "b"]


def number_for_names(file):
    file.attrs["layer_names"] = 3


def huge_but_empty(file):
    file.create_dataset("layers/dense/vars/0", (0, 2**62, 2**62), "f4")


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (looped, "'/layers/dense/loop' has another name in the file too"),
        (deep, "is over 64 groups deep"),
        (two_names, "attribute 'name' of '/layers/dense/vars' is a list"),
        (number_for_names, "attribute 'layer_names' of '/': it holds integers, not text"),
        (
            of_keras3(_0=np.zeros(3, "V2")),
            "tensor 'dense/bias': it has the unsupported dtype of opaque",
        ),
        (of_keras3(_0=np.zeros(3, "c8")), "tensor 'dense/bias': it has the unsupported dtype of records"),
        (huge_but_empty, "tensor 'dense/kernel': it has an absurd shape"),
        (of_keras3(_0=h5py.Empty("f4")), "tensor 'dense/bias': it is no tensor of this file"),
    ],
)
def test_structures_that_keras_does_not_write_are_refused_by_name(write, sentence: str, tmp_path):
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(hdf5(tmp_path / "x.weights.h5", write))


def test_chunks_that_were_never_written_are_refused(tmp_path):
    def write(file):
        file.create_dataset("layers/dense/vars/0", (100, 10), "f4", chunks=(10, 10))

    with pytest.raises(CheckpointError, match="tensor 'dense/kernel': it was never written"):
        read_checkpoint(hdf5(tmp_path / "x.weights.h5", write))


def test_addresses_that_lead_in_a_circle_end_in_one_sentence(tmp_path, monkeypatch):
    """HDF5's library does not come back from some of these files."""
    monkeypatch.setattr(hdf5_tree, "MAX_STEPS", 10_000)
    path = hdf5(tmp_path / "x.weights.h5", of_keras3(_0=np.ones((3, 3)), _1=np.ones(3)))
    content = path.read_bytes()
    starts = [i for i in range(0, len(content), 8) if content[i : i + 4] in (b"TREE", b"SNOD", b"HEAP")]
    addresses = [i for i in range(0, len(content), 8) if struct.unpack_from("<Q", content, i)[0] in starts]
    assert len(addresses) > 10
    for position in addresses:
        for start in starts:
            path.write_bytes(content[:position] + struct.pack("<Q", start) + content[position + 8 :])
            try:
                read_checkpoint(path)
            except CheckpointError as error:
                assert "x.weights.h5: " in str(error)  # noqa: PT017


# Sentences


def test_names_of_any_length_make_a_short_sentence_on_one_line():
    shapes = {"params": {f"layer{i}": {"kernel": np.zeros((2, 2))} for i in range(50)}, "batch_stats": {}}
    names = [f"line\nbreak{i}" + "x" * 10**5 for i in range(50)]
    found = {name: np.zeros((1,) * 60) for name in names}
    sentence = r"50 missing: .* more; 50 unexpected: 'line\\nbreak0x+\.\.\.'"
    with pytest.raises(CheckpointError, match=sentence) as info:
        fill(shapes, found, Rules("flaxarch", FLAXARCH), what="file")
    assert len(str(info.value)) < 2000
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "fields",
    [
        '{"stage_sizes": [3000, 3000, 3000]}',
        '{"stage_sizes": [10000000000]}',
        '{"stage_sizes": "abc"}',
        '{"stage_sizes": [-1]}',
        '{"num_classes": -1}',
        '{"num_classes": 100000000000}',
        '{"dtype": "float999"}',
        '{"no_such_field\\n": 1}',
        "[" * 10**5,
    ],
    ids=lambda fields: fields[:30],
)
def test_a_saved_file_that_describes_no_model_or_a_far_larger_one_is_refused(fields: str, file):
    metadata = {"format": "flaxarch", "name": "resnet20", "fields": fields}
    content = written({"__metadata__": metadata, "a": entry(0, 4, [1])}, bytes(4))
    with pytest.raises(CheckpointError, match=r"^model\.safetensors does not describe a model.{,400}$"):
        flaxarch.load(file(content, "model.safetensors"))
