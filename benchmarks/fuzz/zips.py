"""Writes zip files, also such as no archiver writes, and damages them entry by entry."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random
from typing import TypeVar

from benchmarks.fuzz.blind import NUMBERS

T = TypeVar("T")

BOMB_SIZES = (2**27, 2**30, 3 * 2**30)  # in bytes, of zeros


@dataclass
class Part:
    """An entry; what is not None takes the place of the truth."""

    name: bytes
    content: bytes
    local_name: bytes | None = None
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    compressed_size: int | None = None
    start: int | None = None
    extra: bytes = b""
    raw: bytes | None = None  # the content as compressed
    lost: list[str] = field(default_factory=list)  # of "local", "directory"


def written(parts: list[Part], tail: bytes = b"", end: bytes | None = None, comment: bytes = b"") -> bytes:
    """The archive; `tail` stands between directory and end record, `end` in place of the latter."""
    body, directory, count = bytearray(), bytearray(), 0
    for part in parts:
        raw = part.content if part.raw is None else part.raw
        size = len(part.content) if part.size is None else part.size
        numbers = (
            zlib.crc32(part.content) if part.crc is None else part.crc,
            len(raw) if part.compressed_size is None else part.compressed_size,
            size,
        )
        start = len(body) if part.start is None else part.start
        if "local" not in part.lost:
            name = part.name if part.local_name is None else part.local_name
            head = struct.pack("<4s5H", b"PK\3\4", 20, part.flags, part.method, 0, 0)
            body += head + struct.pack("<IIIHH", *(x % 2**32 for x in numbers), len(name), 0) + name + raw
        if "directory" not in part.lost:
            count += 1
            head = struct.pack("<4s6H", b"PK\1\2", 20, 20, part.flags, part.method, 0, 0)
            head += struct.pack("<III", *(x % 2**32 for x in numbers))
            head += struct.pack("<5HII", len(part.name), len(part.extra), 0, 0, 0, 0, start % 2**32)
            directory += head + part.name + part.extra
    if end is None:
        end = struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), len(comment))
    return bytes(body + directory + tail + end + comment)


def _bomb(size: int) -> bytes:
    """So many zero bytes, deflated: a thousandth of it."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return block * (size >> 20) + b"\3\0"


def deflated(content: bytes) -> bytes:
    """Without zlib's head and checksum, as in zip files."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    return deflate.compress(content) + deflate.flush()


def _kinds(rng: Random, part: Part, others: list[Part]) -> Iterator[Part | list[Part]]:
    """The entry, wrong in one way each."""
    number = rng.choice(NUMBERS)
    yield replace(part, crc=rng.randrange(1, 2**32))
    yield replace(part, size=number)
    yield replace(part, compressed_size=number)
    yield replace(part, size=number, compressed_size=number)
    yield replace(part, start=number)
    yield replace(part, start=rng.randrange(2**12))
    yield replace(part, method=rng.choice((1, 8, 9, 12, 14, 93, 99)))
    yield replace(part, flags=rng.choice((1, 8, 0x40, 0x800, 0x2000)))
    yield replace(part, name=part.name + b"_", local_name=part.name)
    yield replace(part, name=rng.choice(others).name)
    other = rng.choice((b"../../evil", b"/etc/passwd", b"", b"\0", b"a\nb", b"\xff\xfe", b"x" * 60000))
    yield replace(part, name=other)
    yield replace(part, content=part.content[: len(part.content) // 2])
    yield replace(part, content=part.content + bytes(rng.choice((1, 4, 4096))))
    yield replace(part, content=b"")
    yield replace(part, content=rng.choice(others).content)
    yield replace(part, lost=["local"])
    yield replace(part, lost=["directory"])
    yield [part, part]
    yield [part, replace(part, content=rng.randbytes(100))]
    yield [part, *(replace(part, name=b"%d" % i, lost=["local"], start=0) for i in range(2000))]
    yield []
    yield replace(part, method=8, raw=deflated(part.content))
    yield replace(part, method=8, raw=deflated(part.content), size=number)
    yield replace(part, method=8, raw=deflated(part.content)[:-5])
    yield replace(part, method=8, raw=deflated(rng.choice((part.content * 2, b"", bytes(10**6)))))
    raw = bytearray(deflated(part.content) or b"\0")
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    yield replace(part, method=8, raw=bytes(raw))
    size = rng.choice(BOMB_SIZES)
    yield replace(part, method=8, raw=_bomb(size), size=rng.choice((size, len(part.content))), crc=0)
    nested = written([replace(part, method=8, raw=_bomb(size), size=size, crc=0)])
    yield replace(part, method=8, content=nested, raw=deflated(nested))
    wide = struct.pack("<HHQQ", 1, 16, rng.choice(NUMBERS) % 2**64, rng.choice(NUMBERS) % 2**64)
    yield replace(
        part, size=2**32 - 1, compressed_size=2**32 - 1, extra=rng.choice((wide, wide[:7], b"\1\0\xff\xff"))
    )


def _whole(rng: Random, parts: list[Part]) -> Iterator[bytes]:
    """The archive, wrong in its directory or end."""
    numbers = [rng.choice(NUMBERS) % 2**16 for _ in range(4)]
    numbers += [rng.choice(NUMBERS) % 2**32 for _ in range(2)]
    yield written(parts, end=struct.pack("<4s4HIIH", b"PK\5\6", *numbers, 0))
    yield written(parts, end=b"")
    yield written(parts, comment=b"PK\5\6" + rng.randbytes(30))
    yield written(parts, tail=rng.randbytes(50))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, rng.choice(NUMBERS) % 2**64, 1)
    yield written(parts, tail=locator)
    record = struct.pack(
        "<4sQHHII4Q", b"PK\6\6", 44, 45, 45, 0, 0, *(rng.choice(NUMBERS) % 2**64 for _ in range(4))
    )
    body = written(parts)
    yield body[:-22] + record + struct.pack("<4sIQI", b"PK\6\7", 0, len(body) - 22, 1) + body[-22:]
    yield b"\0" * rng.choice((1, 512)) + body
    yield body + body
    shuffled = list(parts)
    rng.shuffle(shuffled)
    yield written(shuffled)
    many = [Part(b"%d" % i, b"") for i in range(20_000)]
    yield written(parts + many)


NUM_KINDS, NUM_WHOLE = 29, 10  # that these two give


def damaged(rng: Random, parts: list[Part]) -> bytes:
    """The archive with an entry or its directory damaged."""
    if rng.random() < 0.2:
        return _nth(_whole(rng, parts), rng.randrange(NUM_WHOLE))
    parts = list(parts)
    for _ in range(rng.choice((1, 1, 1, 2))):
        i = rng.choice((0, rng.randrange(len(parts))))
        wrong = _nth(_kinds(rng, parts[i], parts), rng.randrange(NUM_KINDS))
        parts[i : i + 1] = wrong if isinstance(wrong, list) else [wrong]
        if not parts:
            break
    return written(parts)


def _nth(values: Iterator[T], n: int) -> T:
    return next(islice(values, n, None))
