"""Files of class names: every layout in circulation, and what cannot be one of them."""

import json
import random
from importlib.resources import files
from pathlib import Path

import pytest

from slowfast.datasets.class_name_files import format_class_names, read_class_names

ZUMBA = ["zumba", "abseiling", "arm wrestling"]  # not in the order of the alphabet
LAYOUTS = {
    "one per line": "zumba\nabseiling\narm wrestling\n",
    "windows, byte order mark, blank lines": "\ufeffzumba\r\nabseiling \r\n\r\narm wrestling",
    "quoted": "'zumba'\n\"abseiling\"\narm wrestling",
    "name tab number": "abseiling\t1\narm wrestling\t2\nzumba\t0\n",
    "number tab name": "0\tzumba\n2\tarm wrestling\n1\tabseiling\n",
    "name space number": "abseiling 1\narm wrestling 2\nzumba 0\n",
    "number space name": "0 zumba\n1 abseiling\n2 arm wrestling\n",
    "numbers from 1": "1 zumba\n2 abseiling\n3 arm wrestling\n",
    "numbers with zeros": "000 zumba\n001 abseiling\n002 arm wrestling\n",
    "csv": "id,name\n1,abseiling\n2,arm wrestling\n0,zumba\n",
    "csv, name first, quoted": (
        'class_name,label_id\n"abseiling","1"\n"arm wrestling","2"\n"zumba","0"\n'
    ),
    "csv without header": "abseiling, 1\narm wrestling, 2\nzumba, 0",
    "semicolons": "Index;Class\n0;zumba\n1;abseiling\n2;arm wrestling\n",
    "json list": '["zumba", "abseiling", "arm wrestling"]',
    "json number by name": ' {"abseiling": 1, "arm wrestling": 2, "zumba": 0}',
    "json text of number by quoted name": (
        r'{"\"abseiling\"": "1", "\"arm wrestling\"": "2", "zumba": "0"}'
    ),
    "json name by number": '{"1": "abseiling", "2": "arm wrestling", "0": "zumba"}',
}


def write(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_come_in_the_order_of_the_labels(tmp_path: Path, layout: str) -> None:
    assert read_class_names(write(tmp_path / "names", LAYOUTS[layout])) == ZUMBA


@pytest.mark.parametrize(
    "names",
    [
        ["step 0", "step 1", "step 2"],  # the numbers tell the names apart
        ["step 3", "step 7", "step 9"],
        ["10 m rifle", "javelin", "pole vault"],
        ["walk, 2 persons", "run, 3 persons", "sit"],
        ["Pushing something, left", "Pulling something, right"],
        ["2", "0", "1"],
        ["label name", "class number"],
        ["it's", "'n' rock", "d'"],
    ],
)
def test_numbers_and_signs_in_names_are_kept(tmp_path: Path, names: list[str]) -> None:
    assert read_class_names(write(tmp_path / "names.txt", "\n".join(names))) == names


@pytest.mark.parametrize("number", [400, 600])
def test_the_published_tables_are_one_per_line(number: int) -> None:
    path = files("slowfast.utils") / f"class_tables/kinetics{number}.txt"
    assert read_class_names(str(path)) == path.read_text().splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\t0\nb\t2\nc\t3", "has 3 numbers up to 3, but not 1"),
        ("0,a\n1,b\n1,c", "the number 1 occurs more than once"),
        ("2 a\n3 b\n4 c", "has 3 numbers up to 4, but not 1"),
        ("a\t0\nb\t1\nc", "has no number in 'c', unlike most lines"),
        ("Nr, what\n0,a\n1,b", "has no number in 'Nr, what', unlike most lines"),
        ("0 left 1\n1 right 0", "the first or the last number of '0 left 1' could be the label"),
        ('{"0": 1, "1": 0}', "both keys and values of the JSON object are numbers"),
        ('{"a": "b"}', "neither the keys nor the values of the JSON object are all numbers"),
        ('{"a": 0, "b": 2}', "has 2 numbers up to 2, but not 1"),
        ('{"0": "a", "1": ["b"]}', "the JSON object has values that are neither numbers nor names"),
        ('{"a": 0,', "not JSON: "),
        ('["a", 3]', "the JSON list holds more than names"),
    ],
)
def test_an_ambiguous_or_invalid_file_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(
        ValueError, match=rf"names: {message}.*. Write one name per line in the order of the labels"
    ):
        read_class_names(write(tmp_path / "names", text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"none\.txt: no such file. Check DATA\.CLASS_NAMES"
    ):
        read_class_names(str(tmp_path / "none.txt"))


PIECES = ["0", "1", "2", "10", "walk", "run", "a", "é", "世界", "id", "name", "class", "label"]
PIECES += [" ", "  ", ",", ";", "\t", ":", "'", '"', "[", "]", "{", "}", "[bg] none"]
PIECES += ["\ufeff", "\u2028", "\x0c"]


def draw_names(rng: random.Random) -> list[str]:
    """Draw distinct class names of pieces that mean something to the reader, often numbered."""
    styles = ["{n} {word}", "{word} {n}", "{word},{n}", "{n};{word}", "'{word}'", "{word}"]
    style = rng.choice(styles)
    words = {"".join(rng.choices(PIECES, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 12))}
    first = rng.randint(0, 2)
    return sorted({style.format(n=number, word=word) for number, word in enumerate(words, first)})


@pytest.mark.parametrize("seed", range(4))
def test_any_names_are_read_as_they_were_written(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        names = draw_names(rng)
        path = write(tmp_path / "classes.txt", format_class_names(names))
        assert read_class_names(path) == names


@pytest.mark.parametrize(
    ("names", "is_plain"),
    [
        (["brush hair", "cartwheel"], True),
        (["10 m rifle", "javelin"], True),
        (sorted(f"{number} action{number}" for number in range(1, 11)), False),
        (["kick 2", "punch 1"], False),
        (["[bg] none", "walk"], False),
        (["'a'", "b"], False),
        ([" a", "b"], False),
    ],
)
def test_names_are_lines_unless_lines_would_be_misread(names: list[str], is_plain: bool) -> None:
    text = format_class_names(names)
    assert (text == "".join(f"{name}\n" for name in names)) == is_plain
    assert is_plain or json.loads(text) == names
