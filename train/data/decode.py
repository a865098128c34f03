"""Picture files to pixels: JPEG by the fastest decoder that is installed, and all else by Pillow.

Pillow is the judge. simplejpeg and OpenCV bring the same libjpeg-turbo, and decode only what they decode to
Pillow's pixels: plain 8-bit JPEG, grey or YCbCr, that is whole. Pillow's draft mode, which decodes at a half
or a quarter of the size, gives other pixels than resizing does, and is not used.
"""

import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from flaxarch import pictures


class Decoder(NamedTuple):
    """A way from a plain JPEG file to uint8 RGB (H, W, 3)."""

    name: str
    decode: Callable[[bytes], np.ndarray]  # raises ValueError where it cannot


def decode_pixels(content: bytes) -> np.ndarray:
    """A picture file's bytes to the uint8 RGB (H, W, 3) of Pillow. Raises UnreadablePicture."""
    pixels = _decode_fast(content)
    return np.asarray(pictures.decode(content)) if pixels is None else pixels


def decode_picture(content: bytes) -> Image.Image:
    """The same as a picture of Pillow's."""
    pixels = _decode_fast(content)
    return pictures.decode(content) if pixels is None else Image.fromarray(pixels)


def _decode_fast(content: bytes) -> np.ndarray | None:
    decoder = fastest()
    if decoder is not None and is_plain_jpeg(content):
        try:
            return decoder.decode(content)
        except ValueError:  # Pillow tells whether it decodes, and what is wrong if not
            pass
    return None


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to `size`, and the centre cropped to (size, size).

    Both are rounded as torchvision's Resize and CenterCrop do, and the filter is bilinear and antialiased.
    """
    shorter = min(image.size)
    width, height = (int(size * side / shorter) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))


@lru_cache(maxsize=1)
def fastest() -> Decoder | None:
    """The fastest installed decoder that gives Pillow's pixels for a handful of pictures; None: Pillow's."""
    samples = [(content, np.asarray(pictures.decode(content))) for content in _samples()]
    for decoder in installed():
        if all(np.array_equal(decoder.decode(content), pixels) for content, pixels in samples):
            return decoder
    return None


def installed() -> Iterator[Decoder]:
    """Decoders beside Pillow's that can be imported, the fastest first."""
    for find in (_simplejpeg, _opencv):
        try:
            yield find()
        except (ImportError, AttributeError):  # not installed, or a version without what is used here
            continue


def _simplejpeg() -> Decoder:
    import simplejpeg  # pyright: ignore[reportMissingImports]

    return Decoder("simplejpeg", simplejpeg.decode_jpeg)


def _opencv() -> Decoder:
    import cv2  # pyright: ignore[reportMissingImports]

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

    def decode(content: bytes) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        if image is None:
            raise ValueError("OpenCV cannot decode it")
        return image

    return Decoder("opencv", decode)


def is_plain_jpeg(content: bytes) -> bool:
    """Whether a file looks like whole JPEG of 8 bits, grey or YCbCr, within Pillow's bound on pixels."""
    if (
        content[:2] != b"\xff\xd8" or content[-2:] != b"\xff\xd9"
    ):  # a file that was cut off is Pillow's to name
        return False
    at = 2
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker, size = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive; all Huffman-coded
            bits, channels = content[at + 4], content[at + 9]
            pixels = int.from_bytes(content[at + 5 : at + 7], "big") * int.from_bytes(
                content[at + 7 : at + 9], "big"
            )
            bound = Image.MAX_IMAGE_PIXELS
            return bits == 8 and channels in (1, 3) and pixels > 0 and (bound is None or pixels <= bound)
        if 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # lossless, arithmetic, hierarchical
            return False
        if marker == 0xEE and content[at + 4 : at + 9] == b"Adobe" and content[at + 15 : at + 16] != b"\x01":
            return False  # RGB, CMYK or YCCK
        at += 2 + size
    return False


def _samples() -> Iterator[bytes]:
    """JPEG files of one small picture, of the kinds between which decoders might differ."""
    y, x = np.mgrid[0:37, 0:53]
    noise = np.random.default_rng(0).integers(-40, 40, (37, 53, 3))
    pixels = (np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1) + noise).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    for mode, options in (
        ("RGB", {"subsampling": "4:4:4"}),
        ("RGB", {"subsampling": "4:2:2"}),
        ("RGB", {"subsampling": "4:2:0"}),
        ("RGB", {"subsampling": "4:2:0", "progressive": True}),
        ("L", {}),
    ):
        stream = io.BytesIO()
        picture.convert(mode).save(stream, "JPEG", quality=90, **options)
        yield stream.getvalue()
