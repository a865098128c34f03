"""Pictures on disk: files, folders and tars of them, one after the other, and nothing unpacked to disk.

Hidden files are passed over.
"""

import glob
import gzip
import io
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# Pillow tells a format by the first bytes, so that a PNG named .jpg (ImageNet has one) is read as well.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MAX_BYTES = 2**28  # of one file


class UnreadablePicture(ValueError):
    """A file that does not decode."""


class Picture(NamedTuple):
    """The bytes of one file, or why there are none."""

    name: str  # its path, or that of the tar, "/", and the member's
    content: bytes
    problem: str = ""


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")  # macOS adds a ._name to each file


def decode(content: bytes, mode: str = "RGB") -> "Image.Image":
    """The picture in a file's bytes. Transparency is dropped and EXIF orientation ignored, as in torchvision.

    Raises UnreadablePicture.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            if file.mode.startswith(("I", "F")):  # Pillow would clip these to white
                raise ValueError(f"mode {file.mode} has more than 8 bits a channel")
            return file.convert(mode)
    # What Pillow raises on damaged files, by format: it has no exception of its own for them.
    except (
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        said = re.sub(r" <_io\.BytesIO.*", "", f"{error}")  # "cannot identify image file <_io.BytesIO ...>"
        raise UnreadablePicture(said) from error


def walk(folder: Path) -> Iterator[str]:
    """Names of all pictures under a folder, relative to it, img2 before img10; links are followed."""
    yield from _walk(str(folder), "", ())


def _walk(folder: str, inside: str, above: tuple[str, ...]) -> Iterator[str]:
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder that it lies in
        return
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: natural(entry.name))
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, f"{inside}{entry.name}/", (*above, here))
        elif is_picture(entry.name):
            yield f"{inside}{entry.name}"


def natural(name: str) -> tuple[list[str | int], str]:
    """A key to sort names by, with the numbers in them by their value."""
    parts = re.split(r"([0-9]+)", name)  # text and numbers take turns
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def tar_members(stream: io.BufferedIOBase) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Each member of an uncompressed tar, to be read before the next. TarError: the tar is not whole."""
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            # tarfile would keep a kilobyte for each; its stubs do not know the attribute
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            yield member, tar
        stream.seek(tar.offset)  # tarfile stops at a header that makes no sense as at the end
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"there is no header at byte {tar.offset}")


def find(paths: Sequence[str]) -> list[Path]:
    """The files, folders and tars that are meant, in the order given; patterns as `*.jpg` are looked up.

    Raises FileNotFoundError for a path or pattern that nothing fits, or a folder without pictures.
    """
    found = []
    for path in paths:
        matches = [path]
        if not os.path.lexists(path):
            matches = sorted(glob.glob(path, recursive=True), key=natural)
            matches = [x for x in matches if is_picture(os.path.basename(x)) or _holds_pictures(Path(x))]
            if not matches:
                raise FileNotFoundError(f"nothing is found at {path}")
        found += map(Path, matches)
    for path in found:
        if path.is_dir() and not _holds_pictures(path):
            raise FileNotFoundError(f"{path} holds no picture ({', '.join(SUFFIXES)})")
    return found


def is_tar(path: Path) -> bool:
    """Whether a path is taken for a tar."""
    return path.name.lower().endswith(TAR_SUFFIXES) and not path.is_dir()


def _holds_pictures(path: Path) -> bool:
    return any(walk(path)) if path.is_dir() else is_tar(path)


def count(paths: Sequence[Path]) -> int | None:
    """How many pictures there are; None where a tar would have to be read to tell."""
    if any(map(is_tar, paths)):
        return None
    return sum(sum(1 for _ in walk(path)) if path.is_dir() else 1 for path in paths)


def read(path: Path) -> Iterator[Picture]:
    """The pictures of a file, a folder or a tar."""
    if path.is_dir():
        for name in walk(path):
            yield _read_file(path / name)
    elif is_tar(path):
        yield from _read_tar(path)
    else:
        yield _read_file(path)


def _read_file(path: Path) -> Picture:
    if not path.is_file():  # a pipe would wait for its writer
        return Picture(str(path), b"", "it is no regular file")
    try:
        with path.open("rb") as file:
            return _limited(str(path), file)
    except OSError as error:
        return Picture(str(path), b"", error.strerror or str(error))


def _limited(name: str, file: IO[bytes]) -> Picture:
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        return Picture(name, b"", f"it has more than {MAX_BYTES >> 20} MiB")
    return Picture(name, content)


def _read_tar(path: Path) -> Iterator[Picture]:
    is_plain = path.suffix.lower() == ".tar"
    try:
        with path.open("rb") as file, file if is_plain else gzip.GzipFile(fileobj=file) as stream:
            for member, tar in tar_members(stream):
                parts = PurePosixPath(member.name).parts
                if not is_picture(parts[-1] if parts else "") or any(x.startswith(".") for x in parts[:-1]):
                    continue
                name = f"{path}/{member.name}"
                file = tar.extractfile(member) if member.isreg() else None
                yield _limited(name, file) if file else Picture(name, b"", "it is no regular file")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        yield Picture(str(path), b"", f"it is not a whole tar file ({error})")
