import argparse
import collections
import contextlib
import os
import pickle
import struct
import time
import tracemalloc
from io import BytesIO

import numpy as np
import pytest

from flaxarch.convert import unpickle as unpickle_module
from flaxarch.convert.constructors import NUMPY_CONSTRUCTORS, PLAIN_CONSTRUCTORS
from flaxarch.convert.unpickle import CheckpointError, unpickle
from tests.convert.torch_writer import Name, dumps

CONSTRUCTORS = {**PLAIN_CONSTRUCTORS, **NUMPY_CONSTRUCTORS}
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

PLAIN = {
    "numbers": [0, 1, 255, 256, -1, 2**31, -(2**70), 0.5, float("inf"), True, False, None, 1 + 2j],
    "text": ["", "conv1.weight", "ä€😀", "line\nbreak\\"],
    b"bytes": [b"", b"\x00\xff\n", bytearray(b"\x80")],
    "containers": [
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        [],
        [[]],
        {},
        {1: {2: 3}},
        {1, 2},
        frozenset("a"),
    ],
    3: {0.5: "float key", None: "none", True: "bool"},
}


def read(data, constructors=CONSTRUCTORS):
    return unpickle(BytesIO(data), constructors)


def refusal(data):
    with pytest.raises(CheckpointError) as info:
        read(data)
    message = str(info.value)
    assert message.startswith("pickle, byte ")
    assert "\n" not in message
    assert len(message) < 300
    return message


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_of_every_protocol_read_back_equal(protocol):
    assert read(pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_special_containers_become_plain_ones(protocol):
    lists = collections.defaultdict(list, {"a": [1]})
    namespace = argparse.Namespace(lr=0.1, betas=(0.9, 0.99))
    tree = [collections.OrderedDict(b=1, a=2), collections.Counter("aab"), lists]
    expected = [{"b": 1, "a": 2}, {"a": 2, "b": 1}, {"a": [1]}]
    if protocol >= 2:  # before, a class is made by a call of `copyreg._reconstructor`
        tree, expected = [*tree, namespace], [*expected, vars(namespace)]
    result = read(pickle.dumps(tree, protocol))
    assert result == expected
    assert list(result[0]) == ["b", "a"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["u1", "i8", "f2", "<f4", ">f4", ">i2", "?", "c8"])
def test_numpy_arrays_and_numbers_of_every_protocol_read_back_equal(protocol, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    tree = [array, np.asfortranarray(array), array.T[1:, ::2], array[:0], array[0, 0, 0], array.dtype]
    result = read(pickle.dumps(tree, protocol))
    for value, expected in zip(result, tree, strict=True):
        np.testing.assert_array_equal(value, expected, strict=True)


def test_a_value_that_is_referred_to_twice_is_one_value_also_when_it_was_built_late():
    array, loop = np.arange(3), []
    loop.append(loop)
    first, second, other_loop = read(pickle.dumps([array, array, loop], 2))
    assert first is second
    np.testing.assert_array_equal(first, array, strict=True)
    assert other_loop[0] is other_loop


def test_a_cifar_batch_written_by_python_2_is_read_with_text_keys():
    pixels = bytes(range(200, 206))
    data = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00"
        b"\x85U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|"
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x06\x00\x00\x00" + pixels + b"tbU\x06labelsq\x08]"
        b"q\x09(K\x06K\x09eU\x0bbatch_labelU\x01\xe9u."
    )
    batch = read(data, NUMPY_CONSTRUCTORS)
    assert list(batch) == ["data", "labels", "batch_label"]
    np.testing.assert_array_equal(
        batch["data"], np.arange(200, 206, dtype=np.uint8).reshape(2, 3), strict=True
    )
    assert batch["labels"] == [6, 9]
    assert batch["batch_label"].encode("latin-1") == b"\xe9"


def test_pickles_in_sequence_are_read_one_by_one():
    stream = BytesIO(b"..." + pickle.dumps("first") + pickle.dumps({"second": 2}) + b"raw")
    stream.seek(3)
    assert unpickle(stream, {}) == "first"
    assert unpickle(stream, {}) == {"second": 2}
    assert stream.read() == b"raw"


class Command:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_of_os_system_is_refused_by_name_and_not_made(protocol, tmp_path):
    marker = tmp_path / "executed"
    data = pickle.dumps({"weight": Command(f"touch {marker}")}, protocol)
    assert f"'{os.system.__module__}.system'" in refusal(data)
    assert not marker.exists()
    pickle.loads(data)  # the same bytes do harm elsewhere
    assert marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02cos\nsystem\nU\x04true\x85\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.",
        b"cos\nsystem\n0N.",
    ],
)
def test_every_way_to_name_a_function_is_refused(data):
    assert "asks for 'os.system'" in refusal(data)


def test_a_class_that_may_be_named_is_not_called():
    assert "builtins.list" in refusal(dumps(Name("builtins", "list")((1,))))
    assert "numpy.ndarray" in refusal(dumps(Name("numpy", "ndarray")((10**9,))))


def test_what_was_made_by_no_constructor_is_not_called():
    refusal(b"U\x06system)R.")
    refusal(b"](K\x01K\x02tR.")


@pytest.mark.parametrize("value", [np.array([None]), np.zeros(2, "f4,i4"), np.array(["text"])], ids=str)
def test_arrays_of_anything_but_numbers_are_refused(value):
    assert "numpy.dtype: a dtype that is no number" in refusal(pickle.dumps(value, 2))


def test_arrays_whose_bytes_do_not_fit_their_shape_are_refused():
    data = pickle.dumps(np.arange(6, dtype=np.uint8), 2)
    assert "number of bytes" in refusal(data.replace(b"K\x06\x85", b"K\x07\x85"))
    assert "size or position" in refusal(data.replace(b"K\x06\x85", b"J\xff\xff\xff\xff\x85"))


@pytest.mark.parametrize("data", [b"\x82\x01.", b"\x97.", b"N\x98.", b"K\x01Q.", b"Pkey\n."])
def test_what_is_not_in_the_file_is_not_looked_for(data):
    assert "not in" in refusal(data)


def test_a_newer_protocol_is_refused():
    assert "protocol 6" in refusal(b"\x80\x06N.")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_cut_short_anywhere_ends_in_one_sentence(protocol):
    data = pickle.dumps([PLAIN, np.arange(5)], protocol)
    for length in range(len(data)):
        assert "cut short" in refusal(data[:length])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_flipped_bits_end_in_one_sentence_or_in_other_data(protocol):
    data = pickle.dumps([PLAIN, np.arange(5), np.float32(1)], protocol)
    rng = np.random.default_rng(protocol)
    for bit in rng.choice(8 * len(data), 500):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(CheckpointError):
            read(bytes(flipped))


# A memoized megabyte of text, encoded to new bytes again and again.
COPIES = (
    b"c_codecs\nencode\n\x940X\0\0\x10\0" + bytes(2**20) + b"\x940" + b"h\x00h\x01U\x06latin1\x86R" * 20000
)
# t = (t, t), again and again: its hash takes 2**100 steps.
DOUBLED = b")" + b"2\x86" * 100
# Integers of equal hash: a dict of them takes quadratic time.
COLLIDING = b"}(" + b"".join(
    b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(2, 10**5)
)


@pytest.mark.parametrize(
    "data",
    [
        b"\x8e" + struct.pack("<Q", 2**62) + b"bytes.",
        b"\x96" + struct.pack("<Q", 2**40) + b"bytes.",
        b"\x8d" + struct.pack("<Q", 2**64 - 1) + b"text.",
        b"B\xff\xff\xff\xffbytes.",
        b"T\xff\xff\xff\x7fbytes.",
        b"\x8b\xff\xff\xff\x7f1.",
        b"I" + b"9" * 10**6 + b"\n.",
        b"Np" + b"9" * 4000 + b"\n.",
        b"U\x00" + b"\x94" * 10**5 + b"h\xff\xff",
        b"(" * 10**5 + b".",
        COPIES + b".",
        b"}" + DOUBLED + b"Ns.",
        b"\x8f(" + DOUBLED + b"\x90.",
        COLLIDING + b"u.",
    ],
    ids=lambda data: repr(data[:8]),
)
def test_absurd_pickles_end_soon_and_in_little_memory(data):
    tracemalloc.start()
    try:
        start = time.perf_counter()
        refusal(data)
        assert time.perf_counter() - start < 10  # many times what it takes
        assert tracemalloc.get_traced_memory()[1] < 10**8
    finally:
        tracemalloc.stop()


def test_the_number_of_opcodes_is_bounded(monkeypatch):
    monkeypatch.setattr(unpickle_module, "MAX_OPCODES", 100)
    assert read(b"N0" * 49 + b"N.") is None
    assert "more than 100 opcodes" in refusal(b"N0" * 50 + b"N.")


def test_deep_nesting_does_not_overflow_the_stack():
    nested = read(b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    assert len(nested) == 1
    assert len(nested[0][0]) == 1
