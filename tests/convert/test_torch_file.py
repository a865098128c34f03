import contextlib
import mmap
import os
import struct
import tarfile
import tracemalloc
import zipfile
from io import BytesIO

import numpy as np
import pytest

from flaxarch.convert import CheckpointError, read_checkpoint
from flaxarch.convert.torch_file import read_torch
from tests.convert.torch_writer import (
    STORAGES,
    WEIGHTS,
    Name,
    Storage,
    assert_equal,
    legacy_format,
    refusal,
    tensor,
    tensors,
    view,
    zip_format,
)

FORMATS = pytest.mark.parametrize("write", [zip_format, legacy_format])
DTYPES = pytest.mark.parametrize("dtype", STORAGES, ids=str)


# Tensors, in both of torch's formats


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_reads_back_bit_equal(write, protocol, file):
    checkpoint = read_checkpoint(file(write(tensors(), protocol=protocol)))
    assert_equal(checkpoint.tensors, WEIGHTS)
    assert checkpoint.metadata == {}


@FORMATS
@DTYPES
def test_every_dtype_reads_back_bit_equal(write, dtype, file):
    array = np.random.default_rng(0).integers(0, 2 if dtype.kind == "b" else 100, (3, 5)).astype(dtype)
    assert_equal(read_checkpoint(file(write({"x": tensor(array)}))).tensors, {"x": array})


@DTYPES
def test_a_big_endian_file_is_swapped(dtype, file):
    array = np.arange(4).astype(dtype)
    assert_equal(
        read_checkpoint(file(zip_format({"x": tensor(array)}, byteorder="big"))).tensors, {"x": array}
    )


@FORMATS
def test_strides_and_offsets_are_honoured(write, file):
    storage = Storage(np.arange(24, dtype=np.float32))
    block = storage.array.reshape(2, 3, 4)
    tree = {
        "transposed": view(storage, 0, (4, 3, 2), (1, 4, 12)),
        "sliced": view(storage, 13, (3, 2), (4, 2)),
        "scalar": view(storage, 23, (), ()),
        "expanded": view(storage, 5, (1000, 1), (0, 99)),
        "empty": view(storage, 0, (0, 3), (3, 1)),
    }
    expected = {
        "transposed": block.transpose(2, 1, 0),
        "sliced": block[1, :, 1::2],
        "scalar": block[1, 2, 3:].reshape(()),
        "expanded": np.full((1000, 1), 5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    result = read_torch(file(write(tree)))
    assert_equal(result, expected)
    assert np.shares_memory(result["transposed"], result["sliced"])
    with pytest.raises(ValueError, match="read-only"):
        result["sliced"][0] = 0


def test_the_tensors_of_a_zip_file_are_views_of_the_mapped_file(file):
    array = read_torch(file(zip_format(tensors())))["conv.weight"]
    while isinstance(array, np.ndarray):
        array = array.base
    assert isinstance(array.obj if isinstance(array, memoryview) else array, mmap.mmap)


def test_the_parts_of_storages_in_old_legacy_files_are_found(file):
    storage = Storage(np.arange(10, dtype=np.int64))
    part = Storage(storage.array, part=(4, 3))
    result = read_torch(file(legacy_format([view(part, 1, (2,), (1,)), view(storage, 1, (2,), (1,))])))
    np.testing.assert_array_equal(result, [[5, 6], [1, 2]])
    outside = Storage(storage.array, part=(8, 3))
    assert "reaches beyond" in refusal(file(legacy_format({"x": view(outside, 0, (1,), (1,))})))


@FORMATS
def test_old_and_new_ways_to_rebuild_tensors_are_read(write, file):
    storage = Storage(np.arange(6, dtype=np.float32))
    untyped = Storage(np.arange(6, dtype=np.uint8))
    hooks = Name("collections", "OrderedDict")()
    tree = {
        "old": Name("torch._utils", "_rebuild_tensor")(storage, 2, (2,), (3,)),
        "parameter": Name("torch._utils", "_rebuild_parameter")(view(storage, 5, (1,), (1,)), True, hooks),
        "uint16": Name("torch._utils", "_rebuild_tensor_v3")(
            untyped, 1, (2,), (1,), False, hooks, Name("torch", "uint16")
        ),
    }
    expected = {
        "old": np.array([2, 5], "f4"),
        "parameter": np.array([5], "f4"),
        "uint16": np.array([0x0302, 0x0504], "u2"),
    }
    assert_equal(read_checkpoint(file(write(tree))).tensors, expected)


@FORMATS
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (6, (), ()),
        (0, (2, 2), (5, 1)),
        (0, (2,), (2**62,)),
        (-1, (2,), (1,)),
        (2, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (0, 2, 1),
        (10**5000, (2,), (1,)),
        (0, (2**62, 2**62), (0, 0)),
        (0, (2**25,), (0,)),
        (0, (1,) * 65, (1,) * 65),
        (0, ("2",), (1,)),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) or value < 10**9 else "huge",
)
def test_tensors_that_do_not_fit_their_storage_are_refused(write, offset, shape, strides, file):
    storage = Storage(np.arange(6, dtype=np.float32))
    assert "_rebuild_tensor_v2" in refusal(file(write({"x": view(storage, offset, shape, strides)})))


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_call_of_anything_but_tensor_rebuilding_is_refused_by_name_and_not_made(
    write, protocol, file, tmp_path
):
    tree = {"state_dict": tensors(), "hook": Harm(tmp_path / "made")}
    assert f"'{os.mkdir.__module__}.mkdir'" in refusal(file(write(tree, protocol=protocol)))
    assert not (tmp_path / "made").exists()
    whole_model = Name("torchvision.models.resnet", "ResNet")()
    assert "'torchvision.models.resnet.ResNet'" in refusal(file(write(whole_model, protocol=protocol)))


# Damage


def test_a_zip_file_cut_short_anywhere_is_refused(file):
    content = zip_format(tensors())
    for length in range(1, len(content), 7):
        refusal(file(content[:length]))


def test_a_legacy_file_cut_short_anywhere_is_refused(file):
    content = legacy_format(tensors())
    for length in range(1, len(content), 3):
        refusal(file(content[:length]))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_of_a_zip_file_is_found_or_does_not_matter(compression, file):
    content = zip_format(tensors(), compression=compression)
    for bit in np.random.default_rng(0).choice(8 * len(content), 500, replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(CheckpointError):
            assert_equal(read_checkpoint(file(flipped)).tensors, WEIGHTS)


def test_a_flipped_bit_of_a_legacy_file_ends_in_one_sentence_or_other_data(file):
    content = legacy_format(tensors())
    for bit in np.random.default_rng(0).choice(8 * len(content), 500, replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(CheckpointError):  # there are no checksums
            read_checkpoint(file(flipped))


@FORMATS
@pytest.mark.parametrize("num_elements", [-1, 0, 5, 7, 2**40, 2**62, 2**70])
def test_a_storage_of_another_size_than_the_pickle_says_is_refused_without_room_made_for_it(
    write, num_elements, file
):
    storage = Storage(np.arange(6, dtype=np.float32), num_elements=num_elements)
    path = file(write({"x": view(storage, 0, (0,), (1,))}))
    tracemalloc.start()
    try:
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_a_storage_that_is_not_in_a_zip_file_is_refused(file):
    content = zip_format({"x": tensor(np.arange(6))}).replace(b"archive/data/0", b"archive/data/1")
    assert "no entry 'archive/data/0'" in refusal(file(content))


def test_storages_that_are_listed_otherwise_than_used_are_refused(file):
    array = np.arange(6, dtype=np.float32)
    for keys in ([], ["0", "0"], ["1"], ["0", "1"], "0", [("0",)], None):
        content = legacy_format({"x": tensor(array)}, keys={} if keys is None else keys)
        assert "list of storages" in refusal(file(content))
    count = struct.pack("<q", 6) + array.tobytes()
    wrong = legacy_format({"x": tensor(array)}).replace(count, struct.pack("<q", 7) + array.tobytes())
    assert "another number" in refusal(file(wrong))
    twice = [view(Storage(array), 0, (1,), (1,)), view(Storage(array, num_elements=3), 0, (1,), (1,))]
    assert "now 24 bytes, now 12" in refusal(file(legacy_format(twice)))


def test_a_zip_bomb_is_refused_in_little_memory(file):
    path = file(zip_format({"x": tensor(np.zeros(2**25, np.float32))}, compression=zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    try:
        assert "inflates to over" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_than_deflate_are_refused(compression, file):
    assert "not by deflate" in refusal(file(zip_format(tensors(), compression=compression)))


def test_compressed_files_within_reason_are_read(file):
    path = file(zip_format(tensors(), compression=zipfile.ZIP_DEFLATED))
    assert_equal(read_checkpoint(path).tensors, WEIGHTS)


@pytest.mark.parametrize("prefix", ["", "resnet18/", "archive/"])
def test_the_folder_within_a_zip_file_may_have_any_name(prefix, file):
    assert_equal(read_checkpoint(file(zip_format(tensors(), prefix=prefix))).tensors, WEIGHTS)


def test_torchscript_and_other_zip_archives_are_refused(file):
    assert "TorchScript" in refusal(file(zip_format(tensors(), entries={"constants.pkl": b""})))
    assert "'deep/er/data.pkl'" in refusal(file(zip_format(tensors(), prefix="deep/er/")))
    assert "byte order" in refusal(file(zip_format(tensors(), byteorder="middle")))


def test_other_pickles_and_versions_than_torch_s_are_refused(file):
    assert "not one that torch.save wrote" in refusal(file(legacy_format(tensors(), magic=1)))
    assert "1001" in refusal(file(legacy_format(tensors(), version=1002)))
    assert "1001" in refusal(file(legacy_format(tensors(), version=[])))


def test_the_tar_format_of_the_first_torch_is_refused(file):
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    assert "tar archive" in refusal(file(stream.getvalue()))
