import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from flaxarch import pictures
from flaxarch.pictures import UnreadablePicture
from train.data import decode as decode_module
from train.data.decode import (
    Decoder,
    decode_picture,
    decode_pixels,
    fastest,
    installed,
    is_plain_jpeg,
    resize_and_crop,
)


def jpeg(mode: str = "RGB", size: tuple[int, int] = (45, 31), **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(256, size=(size[1], size[0], len(mode)), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode=None).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def cmyk() -> bytes:
    stream = io.BytesIO()
    Image.new("CMYK", (8, 8), (10, 20, 30, 40)).save(stream, "JPEG")
    return stream.getvalue()


def turned() -> bytes:
    """A file whose EXIF says that it is to be turned, which Pillow leaves to its caller."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


FILES = {
    "4:4:4": jpeg(subsampling="4:4:4"),
    "4:2:2": jpeg(subsampling="4:2:2"),
    "4:2:0": jpeg(subsampling="4:2:0", quality=30),
    "progressive": jpeg(progressive=True),
    "grey": jpeg("L"),
    "turned": turned(),
    "a pixel wide": jpeg(size=(1, 7)),
    "with a restart marker in each row": jpeg(restart_marker_rows=1),
}
OTHERS = {
    "CMYK": cmyk(),
    "cut off": FILES["4:2:0"][:-40],
    "nothing": b"",
    "two bytes": b"\xff\xd8",
    "ends in its header": FILES["4:2:0"][:30] + b"\xff\xd9",
}


@pytest.fixture
def fake() -> Iterator[list[bytes]]:
    """Within this the fastest decoder is one that notes what it is given, and decodes it to black."""
    given: list[bytes] = []

    def decode(content: bytes) -> np.ndarray:
        given.append(content)
        return np.zeros((2, 2, 3), np.uint8)

    def only() -> Decoder:
        return Decoder("fake", decode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_module, "fastest", only)
        yield given


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_plain_jpeg_goes_to_the_fastest_decoder(content: bytes, fake: list[bytes]):
    assert is_plain_jpeg(content)
    assert not np.asarray(decode_picture(content)).any()
    assert not decode_pixels(content).any()
    assert fake == [content, content]


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_left_to_pillow(content: bytes, fake: list[bytes]):
    try:
        expected = np.asarray(pictures.decode(content))
    except UnreadablePicture as error:
        with pytest.raises(UnreadablePicture, match=str(error)[:20]):
            decode_picture(content)
    else:
        np.testing.assert_array_equal(decode_picture(content), expected)
    assert fake == []


@pytest.mark.parametrize(
    "content", [b"\xff\xd8" + bytes([0xFF, 0xC4, 0, 2]) * 3 + b"\xff\xd9", OTHERS["CMYK"]]
)
def test_a_file_that_no_decoder_takes_is_no_plain_jpeg(content: bytes):
    assert not is_plain_jpeg(content)


@pytest.mark.parametrize("name", ["simplejpeg", "opencv"])
def test_every_installed_decoder_gives_the_pixels_of_pillow(name: str):
    decoder = next((decoder for decoder in installed() if decoder.name == name), None)
    if decoder is None:
        pytest.skip(f"{name} is not installed")
    for content in FILES.values():
        np.testing.assert_array_equal(decoder.decode(content), np.asarray(pictures.decode(content)))


def test_a_decoder_with_other_pixels_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    def off_by_one(content: bytes) -> np.ndarray:
        return np.asarray(pictures.decode(content)) ^ 1

    def exact(content: bytes) -> np.ndarray:
        return np.asarray(pictures.decode(content))

    decoders = [Decoder("off by one", off_by_one), Decoder("exact", exact)]
    monkeypatch.setattr(decode_module, "installed", lambda: iter(decoders))
    fastest.cache_clear()
    try:
        assert fastest() == decoders[1]
        decoders.pop()
        fastest.cache_clear()
        assert fastest() is None
    finally:
        fastest.cache_clear()


def test_what_the_fastest_decoder_refuses_pillow_decodes(monkeypatch: pytest.MonkeyPatch):
    def refuse(content: bytes) -> np.ndarray:
        raise ValueError("it is the wrong kind of JPEG")

    monkeypatch.setattr(decode_module, "fastest", lambda: Decoder("refuses", refuse))
    expected = np.asarray(pictures.decode(FILES["4:2:0"]))
    np.testing.assert_array_equal(decode_picture(FILES["4:2:0"]), expected)
    np.testing.assert_array_equal(decode_pixels(FILES["4:2:0"]), expected)


def test_resizing_takes_the_shorter_side_and_the_centre():
    picture = Image.fromarray(np.tile(np.arange(60, dtype=np.uint8), (20, 1)))
    cropped = np.asarray(resize_and_crop(picture, 20))
    np.testing.assert_array_equal(cropped, np.asarray(picture)[:, 20:40])
