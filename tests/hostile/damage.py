"""Damage: the same good file cut, flipped, grown and mixed, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from tests.hostile.attack import Attack, attack

Mutation = Callable[[bytearray, random.Random], bytearray]

_TELLING = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
_HEAD_BYTES = 512  # where formats keep sizes and offsets


def _flip_bits(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.randint(1, 16)):
        content[_place(content, chance)] ^= 1 << chance.randrange(8)
    return content


def _set_bytes(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.randint(1, 8)):
        content[_place(content, chance)] = chance.choice(_TELLING)
    return content


def _set_number(content: bytearray, chance: random.Random) -> bytearray:
    at, size = _place(content, chance), chance.choice((2, 4, 8))
    number = chance.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (4 * size)))
    content[at : at + size] = number.to_bytes(size, chance.choice(("little", "big")))
    return content


def _truncate(content: bytearray, chance: random.Random) -> bytearray:
    return content[: chance.randint(1, len(content))]


def _remove(content: bytearray, chance: random.Random) -> bytearray:
    at = _place(content, chance)
    del content[at : at + chance.randint(1, 256)]
    return content or bytearray(b"\0")


def _repeat(content: bytearray, chance: random.Random) -> bytearray:
    at = _place(content, chance)
    block = content[at : at + chance.randint(1, 256)]
    content[at:at] = block * chance.randint(1, 50)
    return content


def _blank(content: bytearray, chance: random.Random) -> bytearray:
    at = _place(content, chance)
    size = min(chance.randint(1, 1024), len(content) - at)
    content[at : at + size] = bytes([chance.choice(_TELLING)]) * size
    return content


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip_bits, _set_bytes, _set_number, _truncate, _remove, _repeat, _blank),
)


def mutated(whole: bytes, seed: str) -> bytes:
    """Damage a file once to four times; a seed always does the same."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    content = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        content = chance.choice(MUTATIONS)(content, chance)
    return bytes(content)


def attacks(files: Mapping[str, bytes]) -> Iterator[Attack]:
    """Give each format empty of sense: cut at a third and before its end, flipped, renamed."""
    errors = (
        *("ok", "DecodeError", "UnsupportedMedia", "RenderError", "LimitExceeded"),
        *("PasswordRequired", "SandboxCrashed", "SandboxTimeout"),
    )
    for name, whole in files.items():
        yield attack(f"{name} cut at a third", whole[: len(whole) // 3], *errors)
        yield attack(f"{name} without its last byte", whole[:-1], *errors)
        yield attack(f"{name} with bits flipped", _flipped(whole, name), *errors)
        yield attack(f"{name} named as text", whole, "ok", media_type="text/plain")
    yield attack("nothing at all", b"", "UnsupportedMedia", says="0 bytes")
    yield attack("one zero byte", b"\0", "UnsupportedMedia", says="an unknown type in 1 bytes")


def _flipped(whole: bytes, name: str) -> bytes:
    content = bytearray(whole)
    chance = random.Random(name)  # noqa: S311 - repeatable, not secret
    for _ in range(10):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def _place(content: bytearray, chance: random.Random) -> int:
    reach = chance.choice((64, _HEAD_BYTES, len(content)))
    return chance.randrange(min(reach, len(content)))
