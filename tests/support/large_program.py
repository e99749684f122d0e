"""A program of many functions that call each other, and the same with one of them changed."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

CHANGED = 'for (int i = 0; i < 77; i++) { b ^= a * i * i; a += f3(b, a + i); } say("changed", a);'


def compile_large(directory: Path, name: str, functions: int, changed: int | None = None) -> Path:
    """With `changed` that function is longer: all that calls across it changes as well."""
    rng = random.Random(5)
    lines = ["#include <stdio.h>", "int say(const char *text, int value);"]
    lines += [f"int f{number}(int a, int b);" for number in range(functions)]
    for number in range(functions):
        body = [_statement(rng, functions, number) for _ in range(rng.randrange(4, 20))]
        if number == changed:
            body.append(CHANGED)
        lines.append(f"int f{number}(int a, int b) {{ {' '.join(body)} return a ^ b; }}")
    lines.append("int say(const char *text, int value) { return value + *text; }")
    lines.append('int main(int argc, char **argv) { (void)argv; puts("ready");')
    lines.append("return argc > 1 ? f0(1, 2) : 0; }")
    source, program = directory / f"{name}.c", directory / name
    source.write_text("\n".join(lines))
    subprocess.run(["gcc", "-O0", "-w", "-o", str(program), str(source)], check=True)
    return program


def _statement(rng: random.Random, functions: int, number: int) -> str:
    sign, value = rng.choice("+-*^|&"), rng.randrange(10_000)
    match rng.randrange(4):
        case 0:
            return f"a = f{rng.randrange(functions)}(a {sign} {value}, b);"
        case 1:
            return f"if (a > {value}) b {sign}= a + {value};"
        case 2:
            return f'say("message {rng.randrange(10**9)} of {number}", b {sign} {value});'
        case _:
            return f"for (int i = 0; i < 9; i++) b += a * i {sign} {value};"
