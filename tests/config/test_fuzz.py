"""Random configs: each loads as a plain tree, or raises one error that names the problem."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slowfast.config import CfgNode, default_cfg, find_problems, load_cfg
from slowfast.config.ranges import OWN_KEYS
from slowfast.engine.choose_weights import find_problems as find_weight_problems
from slowfast.models.build import find_problems as find_model_problems

SEED = 20_241
NUM_CONFIGS = 300  # ten times as many under soak
MAX_CHARACTERS = 1000  # length of one problem in a message

SCALARS = r"""
0 | 1 | -1 | 3 | 0.5 | 1.5 | -0.0 | 1e-320 | 1e30 | 1e308 | 1e309 | 2147483648 | 9223372036854775808
0x7fffffffffffffffff | 0b1 | 0o17 | 1_000 | 1__0 | 190:20:30 | 1:60 | '1e4' | '1' + '2' | '1j'
.inf | -.inf | .nan | .NaN | inf | nan | -nan | Infinity | true | False | yes | null | ~ | '' |
'1' | 'nan' | '[1, 2]' | '(1, 2)' | ten | 2024-13-45 | 2024-11-25 | = | <<
!!binary aGVsbG8= | !!binary '%%%' | !!float abc | !!int 1.5 | !!bool maybe | !!timestamp x
!!set {a} | !!python/object/apply:os.system ['true'] | !x 1 | !!null x
"\0" | "\uD800" | "\x1b[31m" | "\u202e" | '{}' | '{0}' | '{1}' | '{x}' | '{:q}' | '{'
""".replace("\n", "|").split("|")
SCALARS += ["9" * 30, "9" * 5000, "-" + "9" * 25, "a" * 10_000, "(" * 200]
LISTS = r"""
[] | [[]] | [1, 2] | [1, 2, 3] | [1, 2, 3, 4] | [0, 0, 0, 0] | [-1, 1, 1, 1] | [1.5, 1, 1, 1]
['1', '2', '3'] | [a, b, c] | [1, [2], 3] | [{a: 1}] | [null, 1] | [true, false, true]
[.nan, 1] | [.inf, 1, 1, 1] | [1e400, 1] | [64, 128, 320, 512, 1024] | '(1, 2, 3)' | '[1'
{} | {a: {b: c}} | &a [*a] | *none | [1, 2 | {1: 2
""".replace("\n", "|").split("|")
LISTS += [f"[{', '.join('1' * 2000)}]", f"[{'9' * 400}, 1]"]
LISTS += ["[" * 2000 + "]" * 2000, "{a: " * 500 + "1" + "}" * 500]
TEXTS = r"""
null | [] | 42 | --- | ? [a] | ? {a: b} | a:	1 | TRAIN: 1 | TRAIN: [] | TRAIN: {} | TRAIN.: 1
.TRAIN: 1 | _BASE_: x.yaml | _BASE_: [x.yaml] | _BASE_: none.yaml | _BASE_: 1 | _BASE_: {a: 1}
_BASE_: [null] | _BASE_: '' | _BASE_: "\0" | _BASE_: / | _BASE_: http://[ | _BASE_: ~ | <<: 1
<<: [a] | "\x1b[31m": 1
a: &a {b: *a} | a: &a [*a] | '': 1 | TRAIN..X: 1 | TRAIN.BATCH_SIZE.X: 1 | DATA.MEAN.0: 1 | 1: 2
null: 1 | <<: {TRAIN: {BATCH_SIZE: 2}} | - TRAIN | %YAML 9.9
""".replace("\n", "|").split("|")
TEXTS += ["a: 1\na: 2", "---\n---\n", "\ufeff{}", "_BASE_: " + "a" * 300, "a" * 500 + ": 1"]
TEXTS += [
    "a0: &a0 [1, 1]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))
]


def draw_value(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.55:
        return draw.choice(SCALARS)
    if kind < 0.85:
        return draw.choice(LISTS)
    return f"[{', '.join(draw.choice(SCALARS) for _ in range(draw.randint(0, 5)))}]"


def draw_key(draw: random.Random) -> str:
    key = draw.choice(OWN_KEYS)
    kind = draw.random()
    if kind < 0.9:
        return key

    cut = draw.randrange(len(key))
    misspelled = [key[:cut], key.lower(), key + ".X", key[:cut] + "é" + key[cut:]]
    return draw.choice([*misspelled, key.replace(".", ".."), key[::-1]])


def draw_config(draw: random.Random) -> tuple[bytes, list[str]]:
    """Return the bytes of a file, and overrides for it."""
    keys = [draw_key(draw) for _ in range(draw.randint(0, 3))]
    text = "\n".join(f"{key}: {draw_value(draw)}" for key in keys) or "{}"
    if draw.random() < 0.2:
        text = draw.choice(TEXTS) + (f"\n{text}" if draw.random() < 0.3 else "")

    source = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.15:
        source = text.encode(draw.choice(["utf-16", "utf-16-le", "utf-32", "cp1252"]), "replace")
    if draw.random() < 0.15:
        start = draw.randrange(len(source) + 1)
        inserted = draw.randbytes(draw.randint(1, 4))
        source = source[:start] + inserted + source[start + draw.randint(0, 3) :]

    overrides: list[str] = []
    for _ in range(draw.choice([0, 0, 1, 2])):
        key, value = draw_key(draw), draw_value(draw)
        overrides += [f"{key}={value}"] if draw.random() < 0.3 else [key, value]
    if draw.random() < 0.05:
        overrides.append(draw_value(draw))
    return source, overrides


def leaves(cfg: CfgNode) -> Iterator[Any]:
    for value in cfg.values():
        if isinstance(value, CfgNode):
            yield from leaves(value)
        else:
            yield value


def is_accepted(seed: int, folder: Path) -> bool:
    """Load one config, and check the result: a plain tree, or an error that names the problem."""
    source, overrides = draw_config(random.Random(seed))
    path = folder / "x.yaml"
    path.write_bytes(source)
    try:
        checks = [find_problems, find_model_problems, find_weight_problems]
        cfg = load_cfg(str(path), overrides, checks=checks)
    except (ValueError, OSError) as error:
        problem = error
    else:
        check_tree(cfg, folder / "y.yaml")
        return True

    message = str(problem)
    expected = (ValueError, OSError, FileNotFoundError, IsADirectoryError)
    assert type(problem) in expected, repr(problem)
    assert "x.yaml" in message or "has no value" in message, message
    assert max(map(len, message.splitlines())) <= MAX_CHARACTERS, message
    assert all(line.isprintable() for line in message.splitlines()), repr(message)
    return False


def check_tree(cfg: CfgNode, path: Path) -> None:
    for expected, value in zip(leaves(default_cfg()), leaves(cfg), strict=True):
        numbers = [*filter(is_number, value if isinstance(value, list) else [value])]
        assert type(value) is type(expected) or isinstance(value, float | list), value
        assert all(abs(number) < 1e30 for number in numbers), numbers

    path.write_text(cfg.dump(), encoding="utf-8")
    assert load_cfg(str(path), checks=[]) == cfg


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


@pytest.mark.parametrize(
    ("first", "last"),
    [(SEED + number, SEED + NUM_CONFIGS) for number in range(10)]
    + [
        pytest.param(SEED + NUM_CONFIGS + number, SEED + 10 * NUM_CONFIGS, marks=pytest.mark.soak)
        for number in range(10)
    ],
)
def test_a_random_config_loads_or_is_named_as_wrong(tmp_path: Path, first: int, last: int) -> None:
    accepted = [is_accepted(seed, tmp_path) for seed in range(first, last, 10)]
    assert True in accepted
    assert False in accepted
