"""Modules that are generated: what a compiler of C would take minutes to make, if it could."""

import random


def giant(blocks: int) -> bytes:
    """Return a program whose one function has ``blocks`` branches over 200 variables.

    Its compile takes memory far out of proportion: 67 KB of wasm for 5,000 blocks want 150 MiB.
    """
    return _module([_function(blocks)])


def busy(functions: int) -> bytes:
    """Return a program of many ordinary functions, which keeps a compiler busy for seconds."""
    return _module([_function(40)] * functions)


def _function(blocks: int) -> bytes:
    chance, variables = random.Random(1), 200
    code = bytearray()
    for _ in range(blocks):
        a, b, c = (_number(chance.randrange(variables)) for _ in range(3))
        # A branch on one variable, in which another becomes the sum of two.
        code += b"\x20" + a + b"\x04\x40\x20" + a + b"\x20" + b + b"\x6a\x21" + c + b"\x0b"
    return b"\x01" + _number(variables) + b"\x7f" + bytes(code) + b"\x0b"


def _module(bodies: list[bytes]) -> bytes:
    count = _number(len(bodies))
    exports = b"\x02\x06_start\x00\x00\x06memory\x02\x00"
    code = count + b"".join(_number(len(body)) + body for body in bodies)
    return b"\0asm\1\0\0\0" + b"".join(
        bytes([kind]) + _number(len(body)) + body
        for kind, body in [
            (1, b"\x01\x60\x00\x00"),  # one type: () -> ()
            (3, count + b"\x00" * len(bodies)),
            (5, b"\x01\x00\x01"),  # a memory of one page
            (7, exports),
            (10, code),
        ]
    )


def custom(wasm: bytes, note: bytes) -> bytes:
    """Return the same program under another digest: with a custom section that says ``note``."""
    body = b"\x04note" + note
    return wasm + b"\x00" + _number(len(body)) + body


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
