"""Damage to any file: bits, bytes and blocks, at places of chance, mostly outside of the tensors."""

import struct
from collections.abc import Callable, Iterable
from random import Random

NUMBERS = (
    0,
    1,
    -1,
    2,
    63,
    64,
    127,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
)

Mutation = Callable[[Random, bytes, "Place"], bytes]


class Place:
    """Draws positions: half of them outside of the tensors' bytes, which are most of a file."""

    def __init__(self, content: bytes, arrays: Iterable[bytes]):
        used = sorted((content.find(raw), len(raw)) for raw in arrays if len(raw) > 32 and raw in content)
        self.free, position = [], 0
        for start, size in [*used, (len(content), 0)]:
            if start > position:
                self.free.append((position, start))
            position = max(position, start + size)
        self.weights = [end - start for start, end in self.free]
        self.size = len(content)

    def draw(self, rng: Random) -> int:
        """A position in the file."""
        if not self.free or rng.random() < 0.3:
            return rng.randrange(self.size)
        start, end = rng.choices(self.free, self.weights)[0]
        return rng.randrange(start, end)


def cut(rng: Random, content: bytes, place: Place) -> bytes:
    """A download that stopped."""
    return content[: place.draw(rng)]


def cut_front(rng: Random, content: bytes, place: Place) -> bytes:
    """A file whose first bytes are lost."""
    return content[rng.randint(1, 64) :]


def bits(rng: Random, content: bytes, place: Place) -> bytes:
    """Up to eight flipped bits."""
    flipped = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        flipped[place.draw(rng)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def byte(rng: Random, content: bytes, place: Place) -> bytes:
    """One byte of another value."""
    position = place.draw(rng)
    return content[:position] + bytes([rng.randrange(256)]) + content[position + 1 :]


def number(rng: Random, content: bytes, place: Place) -> bytes:
    """A number written over whatever is there, often where one stands: 0, -1, 2**31, ..."""
    size, position = rng.choice((1, 2, 4, 8)), place.draw(rng)
    position -= position % rng.choice((1, size))
    value = struct.pack("<q", rng.choice(NUMBERS))[:size]
    return content[:position] + value + content[position + size :]


def block(rng: Random, content: bytes, place: Place) -> bytes:
    """A block left out, doubled, moved, zeroed, or written over another."""
    start, to = place.draw(rng), place.draw(rng)
    part = content[start : start + rng.choice((1, 4, 16, 64, 512, 4096))]
    end = start + len(part)
    match rng.randrange(5):
        case 0:
            return content[:start] + content[end:]
        case 1:
            return content[:end] + part + content[end:]
        case 2:
            return content[:to] + part + content[to + len(part) :]
        case 3:
            return content[:to] + part + content[to:]
        case _:
            return content[:start] + rng.choice((b"\0", b"\xff")) * len(part) + content[end:]


def junk(rng: Random, content: bytes, place: Place) -> bytes:
    """Bytes of chance, within the file or behind it."""
    position = rng.choice((place.draw(rng), len(content)))
    return content[:position] + rng.randbytes(rng.choice((1, 8, 100, 5000))) + content[position:]


def two(rng: Random, content: bytes, place: Place) -> bytes:
    """Two kinds of damage at once."""
    for mutate in rng.sample((bits, byte, number), 2):
        content = mutate(rng, content, place)
    return content


BLIND: tuple[Mutation, ...] = (cut, cut_front, bits, bits, byte, number, number, block, block, junk, two)
