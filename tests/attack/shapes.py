"""Hostile things of a known shape: what a decoder lets through, what it nearly lets through.

`sample` makes a value that fits a type, of the ugliest parts; `warp` breaks one part of it;
`mutate` damages bytes. All by a `Random`, so that hypothesis can find the smallest case and the
bench can make millions.
"""

from __future__ import annotations

import enum
import functools
import os
from random import Random
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from msgspec import inspect

EXAMPLES = int(os.environ.get("CORPS_FUZZ_EXAMPLES", "150"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
DEPTH_MAX = 6
TEXTS = (
    "", "web", "web.1", "web.1#1", "w1", "c-1", "1" * 64, "a" * 64, "stdout", "all", "--all", "..",
    "../../etc/passwd", "/", "\0", "a\nb", "\x1b]0;owned\x07", "\u202e", "\ufeff", "é" * 300,
    "x" * 5_000, "web.1#" + "9" * 5_000, "{0.__class__}", "%s%n", "' OR 1=1 --", "10.0.0.1:4000",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 9, 64, 255, 65_536, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 53, (1 << 63) - 1,
    -(1 << 63), (1 << 64) - 1,
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.1, 1.75e9, 1e-320, 1e300, -1e300, float("inf"), float("nan"))
BLOBS = (b"", b"\0", b"x", b"\xff" * 25_001, b"%PDF", b"\x1b[2J\n" * 20)
ODDITIES: tuple[Any, ...] = (
    None, True, False, "", "1", -1, 1.5, float("nan"), [], [[]], {}, {"type": "hello"}, b"\xff",
    1 << 63, "\ud800".encode("utf-8", "surrogatepass"), [[[[[[[[[[]]]]]]]]]],
)  # fmt: skip

type_info = functools.cache(inspect.type_info)


def sample(rng: Random, of: object, depth: int = 0, share: float = 0.6) -> Any:
    """A plain value, as msgspec.to_builtins gives them, that fits the type; `share` of the fields
    that have a default are there."""
    info = of if isinstance(of, inspect.Type) else type_info(of)
    match info:
        case inspect.UnionType(types=types):
            small = [one for one in types if isinstance(one, inspect.NoneType)]
            return sample(
                rng, rng.choice(small or types if depth > DEPTH_MAX else types), depth, share
            )
        case inspect.StructType():
            return _struct(rng, info, depth, share)
        case inspect.Metadata(type=inner):
            return sample(rng, inner, depth, share)
        case inspect.EnumType(cls=cls):
            return rng.choice([one.value for one in cls if isinstance(one, enum.Enum)])
        case inspect.LiteralType(values=values):
            return rng.choice(values)
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            count = 0 if depth > DEPTH_MAX else rng.choice((0, 0, 1, 1, 2, 3))
            return [sample(rng, item, depth + 1) for _ in range(count)]
        case inspect.TupleType(item_types=items):
            return [sample(rng, item, depth + 1) for item in items]
        case inspect.DictType(key_type=key, value_type=value):
            count = rng.choice((0, 1, 2))
            pairs = [(sample(rng, key), sample(rng, value, depth + 1)) for _ in range(count)]
            return dict(pairs)
        case _:
            return _scalar(rng, info)


def _struct(rng: Random, info: inspect.StructType, depth: int, share: float) -> Any:
    if info.array_like:
        return [sample(rng, field.type, depth + 1) for field in info.fields]
    made = {} if info.tag_field is None else {info.tag_field: info.tag}
    for field in info.fields:
        if field.required or rng.random() < share:
            made[field.encode_name] = sample(rng, field.type, depth + 1, share)
    return made


def _scalar(rng: Random, info: inspect.Type) -> Any:
    match info:
        case inspect.StrType():
            return rng.choice(TEXTS)
        case inspect.BoolType():
            return rng.random() < 0.5
        case inspect.IntType():
            return rng.choice([one for one in NUMBERS if _fits(info, one)])
        case inspect.FloatType():
            return rng.choice([one for one in FLOATS if _fits(info, one)])
        case inspect.BytesType():
            return rng.choice(BLOBS)
        case inspect.NoneType():
            return None
        case _:
            raise TypeError(f"no sample of {info}: teach this function the type")


def _fits(info: inspect.IntType | inspect.FloatType, value: float) -> bool:
    low, high = info.ge, info.le
    return (low is None or value >= low) and (high is None or value <= high)


def warp(rng: Random, value: Any) -> Any:
    """The same but for one part, which is lost, doubled, or of another type."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value, key=str))
        changed = dict(value)
        match rng.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(TEXTS)] = changed.pop(key)
            case _:
                changed[key] = warp(rng, value[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], warp(rng, value[at]), *value[at:]]
    return rng.choice(ODDITIES)


def mutate(rng: Random, data: bytes) -> bytes:
    """Bytes with one to four wounds: flipped, cut out, put in, repeated, a length blown up."""
    wounded = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(wounded) + 1)
        match rng.randrange(6):
            case 0 | 1 if at < len(wounded):
                wounded[at] ^= 1 << rng.randrange(8)
            case 2:
                del wounded[at : at + rng.randint(1, 8)]
            case 3:
                wounded[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
            case 4:
                wounded[at : at + 5] = (
                    rng.choice((b"\xdd", b"\xdf", b"\xdb", b"\xc6")) + b"\xff" * 4
                )
            case _:
                wounded[at:at] = wounded[at : at + rng.randint(1, 16)]
    return bytes(wounded)


def built(rng: Random, of: Any) -> Any:
    """A struct of the type, as its decoder gives it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(sample(rng, of)), type=of)
