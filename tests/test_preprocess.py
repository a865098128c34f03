"""Pictures as the rows' networks expect them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flaxarch
from flaxarch.preprocess import preprocess

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_file_pillow_image_and_array_are_one(tmp_path: Path):
    path = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(path)
    prepare = preprocess("resnet50")
    expected = prepare(PICTURE)
    assert expected.shape == (224, 224, 3)
    assert expected.dtype == np.float32
    for picture in (path, str(path), Image.fromarray(PICTURE)):
        np.testing.assert_array_equal(prepare(picture), expected)


@pytest.mark.parametrize(("height", "width"), [(300, 512), (512, 300), (256, 256), (256, 301)])
def test_the_middle_is_cut_out_where_the_shorter_side_has_its_size(height: int, width: int):
    # of the width and the height that torchvision's Resize(256) gives, and CenterCrop(224) takes
    picture = np.zeros((height, width, 3), np.uint8)
    short = min(height, width)
    tall, wide = 256 * height // short, 256 * width // short
    resized = np.asarray(Image.fromarray(picture).resize((wide, tall)))
    assert min(resized.shape[:2]) == 256
    marked = Image.fromarray(picture)
    marked.putpixel((width // 2, height // 2), (255, 255, 255))
    bright = preprocess("resnet50")(marked).sum(-1)
    y, x = np.unravel_index(bright.argmax(), bright.shape)
    assert abs(y - 112) <= 2
    assert abs(x - 112) <= 2


def test_pixels_are_normalised_per_channel():
    row = flaxarch.published("resnet50")
    grey = preprocess("resnet50")(np.full((256, 256, 3), 51, np.uint8))
    np.testing.assert_allclose(grey[0, 0], (0.2 - np.array(row.mean)) / np.array(row.std), rtol=1e-5)


def test_keras_networks_take_blue_first_and_the_whole_picture():
    picture = np.zeros((100, 300, 3), np.uint8)
    picture[..., 0], picture[:, 150:, 2] = 10, 30
    found = preprocess("resnet50_keras")(picture)
    np.testing.assert_allclose(found[0, 0], [-103.939, -116.779, 10 - 123.68], rtol=1e-5)
    np.testing.assert_allclose(found[0, -1], [30 - 103.939, -116.779, 10 - 123.68], rtol=1e-5)


def test_grey_pictures_become_colour_ones():
    grey = preprocess("resnet50")(PICTURE[..., 0])
    np.testing.assert_array_equal(grey, preprocess("resnet50")(PICTURE[..., :1]))
    np.testing.assert_array_equal(grey, preprocess("resnet50")(np.repeat(PICTURE[..., :1], 3, axis=-1)))


@pytest.mark.parametrize("name", flaxarch.list_models())
def test_each_row_says_how_its_pictures_are_made(name: str):
    row = flaxarch.published(name)
    size = max(row.input_shape[:2])
    assert row.resize is None or size <= row.resize <= 1.2 * size
    assert row.interpolation in ("bilinear", "bicubic", "nearest")
    assert len(row.mean) == len(row.std) == row.input_shape[2]
    assert row.channels in ("RGB", "BGR", "L")
    assert preprocess(name)(PICTURE).shape == row.input_shape


@pytest.mark.parametrize(
    "picture",
    [PICTURE / 255, PICTURE[None], np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)],
    ids=["floats", "batch", "two channels", "empty"],
)
def test_an_array_that_is_no_picture_is_refused(picture):
    with pytest.raises(ValueError, match=r"a picture as an array is uint8 \(H, W\)"):
        preprocess("resnet50")(picture)


def test_a_strip_that_resizing_would_make_gigabytes_of_is_refused():
    with pytest.raises(ValueError, match="a picture of 60000x1 pixels is too narrow to be cropped"):
        preprocess("resnet50")(np.zeros((1, 60_000, 3), np.uint8))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(30)])
def test_a_file_that_is_no_picture_is_one_sentence(content: bytes, tmp_path: Path):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot"):
        preprocess("resnet50")(path)


def test_a_truncated_file_is_one_sentence(tmp_path: Path):
    path = tmp_path / "x.png"
    Image.fromarray(PICTURE).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="the image cannot be read"):
        preprocess("resnet50")(path)
