"""Every page: its links, commands and config keys are valid, and its tables equal the reference."""

import argparse
import json
import re
import runpy
import shlex
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import torch

from slowfast.commands import main as slowfast_command
from slowfast.config import CfgNode, default_cfg, load_cfg
from slowfast.config.retired import RETIRED
from slowfast.models import build as models
from slowfast.models.build import build_model, count_multiply_adds, count_parameters
from slowfast.models.uniformer_config import LIGHT_MODELS
from slowfast.models.zoo import published
from tests.docs.pages import ROOT, code_blocks, command_lines, prose, write_here_files

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
KEY = r"[A-Z][A-Z_0-9]*(?:\.[A-Z][A-Z_0-9]*)*"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_the_pages_are_found() -> None:
    expected = {
        "README.md",
        "INSTALL.md",
        "DATASET.md",
        "docs/reproduce.md",
        "docs/finetune.md",
        "docs/extend.md",
    }

    assert {name_of(page) for page in PAGES} >= expected


# ---- Links -----------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles]
    return {text.replace(" ", "-") for text in words}


def leads_somewhere(target: str, *, page: Path) -> bool:
    if re.match(r"[a-z]+:", target):
        link = urlsplit(target)
        is_host = re.fullmatch(r"[\w-]+(\.[\w-]+)+", link.netloc) is not None
        return link.scheme in ("http", "https") and is_host

    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    return file.exists() and (not anchor or anchor in anchors(file))


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)]*)\)", prose(page.read_text()))

    assert [target for target in targets if not leads_somewhere(target, page=page)] == []


@each_page
def test_every_path_in_the_text_exists(page: Path) -> None:
    folders = "benchmarks|configs|docs|exp|slowfast|tests|tools"
    paths = re.findall(rf"`((?:{folders})/[\w./]+)`", prose(page.read_text()))

    assert [path for path in paths if not (ROOT / path).exists()] == []


# ---- Commands --------------------------------------------------------------------------------


class _Parsed(Exception):  # noqa: N818, it is no error
    """Parsed command line of a tool, raised before the tool starts its work."""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with the files of the repository, where pages may write their configs.

    Tools that start there stop when they have parsed their command line.
    """
    for path in ROOT.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)

    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def stop(
            self: argparse.ArgumentParser, args: Any = None, parse: Callable[..., Any] = parse
        ) -> None:
            raise _Parsed(parse(self, args))

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)

    return tmp_path


def commands(page: Path) -> list[str]:
    """Return the commands of a page, and write the files that it creates."""
    found = []
    for block in code_blocks(page.read_text(), "bash", "console"):
        write_here_files(block)
        for line in command_lines(block):
            found += line.removeprefix("$ ").split(" && ")
    return [command for command in found if shlex.split(command, comments=True)]


def check_config(path: str, overrides: list[str]) -> None:
    cfg = load_cfg(path, overrides)
    assert models.MODELS[cfg.MODEL.MODEL_NAME].find_problems(cfg) == []

    names = [
        cfg.TRAIN.CHECKPOINT_FILE_PATH,
        cfg.TEST.CHECKPOINT_FILE_PATH,
        cfg.UNIFORMER.PRETRAIN_NAME,
    ]
    for weights in names:
        assert not weights or weights in published() or weights.endswith((".pth", ".pyth"))


def check_tool(script: str, arguments: list[str]) -> None:
    check_command(runpy.run_path(script)["main"], arguments)


def check_command(main: Callable[[list[str]], int], arguments: list[str]) -> None:
    with pytest.raises(_Parsed) as parsed:
        main(arguments)
    args = parsed.value.args[0]
    if getattr(args, "cfg", None) and hasattr(args, "opts"):
        check_config(args.cfg, args.opts)


def check_script(script: str, arguments: list[str]) -> None:
    assert Path(script).is_file()
    if "<name>" not in script:
        check_config(str(Path(script).with_name("config.yaml")), arguments)


def check_pip(arguments: list[str]) -> None:
    for option in ("--constraint", "--requirement"):
        if option in arguments:
            assert Path(arguments[arguments.index(option) + 1]).is_file()

    setup, constraints = Path("setup.py").read_text(), Path("constraints.txt").read_text()
    requirements = " ".join(arguments)
    for name, extras in re.findall(r"(\S*)\[(.+?)\]", requirements):
        missing = [extra for extra in extras.split(",") if f'"{extra}": [' not in setup]
        assert name != "." or not missing
    for name, version in re.findall(r"(\S+)==(\S+)", requirements):
        assert f"{name}=={version}\n" in constraints


UNCHECKED = {
    "apt-get",
    "cd",
    "conda",
    "cp",
    "curl",
    "docker",
    "git",
    "mkdir",
    "rm",
    "source",
    "touch",
}


def check(command: str) -> None:
    """Raise if a command would fail because of what the page says."""
    words = without_variables(shlex.split(command, comments=True))
    if not words or words[0] in UNCHECKED:
        return

    program = Path(words[0]).name
    if program == "torchrun":
        assert words[1] == "--nproc_per_node"
        words, program = ["python", *words[3:]], "python"

    if program == "make":
        check_make(words[1:])
    elif program == "bash":
        check_script(words[1], words[2:])
    elif program in ("python", "python3"):
        check_python(words[1:])
    elif program == "slowfast":
        check_command(slowfast_command.main, words[1:])
    else:
        raise AssertionError(f"this test does not know the program {program}")


def without_variables(words: list[str]) -> list[str]:
    """Check the environment variables before a command, and return the command without them."""
    if words[0] == "export":
        words = words[1:]
    setup = (ROOT / "exp/setup.sh").read_text()
    while words and re.match(r"[A-Z_]+=", words[0]):
        name = words[0].split("=")[0]
        assert f"\n#   {name} " in setup, f"no script reads {name}"
        words = words[1:]
    return words


def check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^(\w+):", Path("Makefile").read_text(), re.MULTILINE)
    assert {word for word in arguments if "=" not in word} <= set(targets)


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        compile(arguments[1], "page", "exec")
    elif arguments[:2] == ["-m", "pip"]:
        check_pip(arguments[2:])
    elif arguments[0].startswith("examples/"):
        assert Path(arguments[0]).is_file()
    elif arguments[0] != "-m":
        check_tool(arguments[0], arguments[1:])


@pytest.mark.parametrize(
    "page",
    # Other tests run the commands of these pages.
    [page for page in PAGES if page.name not in ("extend.md", "tutorial.md")],
    ids=name_of,
)
def test_every_command_is_valid(page: Path, checkout: Path) -> None:
    for command in commands(page):
        try:
            check(command)
        except BaseException as error:
            raise AssertionError(f"{page.name}: {command}") from error


def test_the_commands_of_the_docker_image_are_valid(checkout: Path) -> None:
    runs = re.findall(r"^RUN (.+)$", Path("Dockerfile").read_text(), re.MULTILINE)
    assert runs
    for command in runs:
        check(command)


@pytest.mark.parametrize(
    "command",
    [
        "python tools/run_nets.py --cfg configs/kinetics.yaml",
        "python tools/run_net.py --config configs/kinetics.yaml",
        "python tools/run_net.py --cfg configs/kinetic.yaml",
        "python tools/run_net.py --cfg configs/kinetics.yaml SOLVER.LR 1",
        "python tools/run_net.py --cfg configs/kinetics.yaml SOLVER.BASE_LR fast",
        "python tools/run_net.py --cfg configs/models/r3d_18.yaml UNIFORMER.SPLIT True",
        "python tools/run_net.py --cfg configs/kinetics.yaml TEST.CHECKPOINT_FILE_PATH r3d_19",
        "python tools/prepare_data.py lists --annotations a --videos b c",
        "bash exp/uniformer_s8x8_k400/run.sh NUM_GPUS",
        "bash exp/uniformer_s8x8_k401/run.sh",
        "DATA_FOLDER=x bash exp/uniformer_s8x8_k400/run.sh",
        "make quick",
        "python -m pip install '.[developer]'",
        "python -m pip install torch==1.0",
        "pipx install x",
    ],
)
def test_a_wrong_command_is_found(command: str, checkout: Path) -> None:
    with pytest.raises((Exception, SystemExit)):
        check(command)


# ---- Keys in the text ------------------------------------------------------------------------


def known_keys(tree: CfgNode, prefix: str = "") -> set[str]:
    keys = set()
    for name, value in tree.items():
        keys.add(f"{prefix}{name}")
        if isinstance(value, CfgNode):
            keys |= known_keys(value, f"{prefix}{name}.")
    return keys


@pytest.mark.parametrize(
    "page",
    # tests/docs/test_migrate_page.py checks those of docs/migrate.md, which names keys of others.
    [page for page in PAGES if page.name not in ("CHANGELOG.md", "migrate.md")],
    ids=name_of,
)
def test_every_key_in_the_text_exists_and_takes_its_value(page: Path, repository: Path) -> None:
    keys = known_keys(default_cfg()) | set(RETIRED)
    for code in re.findall(r"`([^`]+)`", prose(page.read_text())):
        words = shlex.split(code) if "'" not in code else [code]
        is_setting = re.fullmatch(rf"{KEY}:? .+", code) and words[0].rstrip(":") in keys

        if is_setting:
            words[0] = words[0].rstrip(":")
            load_cfg(str(repository / "configs/kinetics.yaml"), words, checks=[])
        else:
            assert {word for word in words if re.fullmatch(rf"{KEY}\.{KEY}", word)} <= keys, code


# ---- Tables of the model zoo -----------------------------------------------------------------

MODEL_ZOO = (ROOT / "docs/model_zoo.md").read_text()
EXPERIMENT_COLUMNS = [
    "model",
    "pretraining",
    "frames x crops x clips",
    "stride",
    "FLOPs",
    "parameters",
    "top-1",
    "weights",
    "experiment",
]
BASELINE_COLUMNS = [
    "model",
    "frames x crops x clips",
    "frames/s",
    "FLOPs of a view",
    "parameters",
    "top-1",
    "weights",
    "config",
]
PRETRAINING = {"K400": "Kinetics-400", "K600": "Kinetics-600"}
SHARED_HEADINGS = {"UCF101": "UCF101 and HMDB51", "HMDB51": "UCF101 and HMDB51"}


class Table(NamedTuple):
    """A table below a heading."""

    columns: list[str]
    rows: list[list[str]]


def table_below(heading: str) -> Table:
    section = MODEL_ZOO.split(f"\n## {heading}\n")[1].split("\n#")[0]
    lines = re.findall(r"^\|.*\|$", section, re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return Table(columns=cells[0], rows=cells[2:])


def millions(path: str) -> str:
    """Return the number of parameters of a config's model, as the tables print it."""
    cfg = load_cfg(str(ROOT / path))
    if cfg.MODEL.MODEL_NAME in LIGHT_MODELS:
        with torch.device("meta"):
            return f"{count_parameters(build_model(cfg)) / 1e6:.1f} M"
    return _millions(cfg.MODEL.MODEL_NAME, tuple(cfg.UNIFORMER.DEPTH), cfg.MODEL.NUM_CLASSES)


@cache
def _millions(name: str, depths: tuple[int, ...], num_classes: int) -> str:
    cfg = default_cfg()
    cfg.MODEL.MODEL_NAME = name
    cfg.MODEL.NUM_CLASSES = num_classes
    cfg.UNIFORMER.DEPTH = list(depths)
    cfg.DATA.NUM_FRAMES = 16  # MViT has a position embedding for each frame.
    with torch.device("meta"):
        return f"{count_parameters(build_model(cfg)) / 1e6:.1f} M"


def experiments() -> dict[str, list[dict[str, Any]]]:
    """Return the published experiments by the heading of their table."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for case in json.loads((ROOT / "tests/reference/experiments.json").read_text()):
        heading = SHARED_HEADINGS.get(case["benchmark"], case["benchmark"])
        tables.setdefault(heading, []).append(case)
    return tables


def experiment_row(case: dict[str, Any]) -> list[str]:
    name, numbers = case["exp"], case["published"]
    entries = published().items()
    weights = [f"[{key}]({entry.page})" for key, entry in entries if entry.experiment == name]
    assert len(weights) == numbers["weights_linked"]

    run, test = f"[run](../exp/{name}/run.sh)", f"[test](../exp/{name}/test.sh)"
    return [
        case["model"],
        PRETRAINING.get(numbers["pretrain"], numbers["pretrain"]),
        numbers["frames_x_crops_x_clips"].replace("x", " x "),
        str(numbers["stride"] or "-"),
        numbers["flops"].replace("G", " G"),
        millions(f"exp/{name}/config.yaml"),
        numbers["top1"],
        *(weights or ["-"]),
        f"[{name}](../exp/{name}): {run}, {test}",
    ]


@pytest.mark.parametrize("heading", experiments())
def test_the_table_of_experiments_is_the_reference(heading: str) -> None:
    table = table_below(heading)

    assert table.columns == EXPERIMENT_COLUMNS
    assert table.rows == [experiment_row(case) for case in experiments()[heading]]


LIGHT_HEADING = "Kinetics-400, light models"


def light_row(exp: str, case: dict[str, Any]) -> list[str]:
    numbers, size = case["published"], case["DATA"]["TEST_CROP_SIZE"]
    model = "UniFormer-XS" if case["UNIFORMER"]["HEAD_DIM"] == 32 else "UniFormer-XXS"
    run, test = f"[run](../exp/{exp}/run.sh)", f"[test](../exp/{exp}/test.sh)"
    return [
        model,
        numbers["frames"].replace("x", " x "),
        str(size),
        f"{numbers['gflops']} G",
        millions(f"exp/{exp}/config.yaml"),
        str(numbers["top1"]),
        f"[{exp}]({published()[exp].page})",
        f"[{exp}](../exp/{exp}): {run}, {test}",
    ]


def test_the_table_of_light_models_is_the_reference() -> None:
    cases = json.loads((ROOT / "tests/reference/light_experiments.json").read_text())
    expected = [light_row(exp, case) for exp, case in cases.items() if exp != "_note"]
    table = table_below(LIGHT_HEADING)
    assert table.columns[2] == "pixels"
    assert sorted(table.rows) == sorted(expected)


@pytest.mark.zoo
def test_the_table_of_baselines_equals_torchvision_and_counts() -> None:
    expected = []
    for name, entry in published().items():
        if name.startswith("uniformer_"):
            continue
        model = name.removesuffix("_22k")
        cfg = load_cfg(str(ROOT / f"configs/models/{model}.yaml"))
        cost = count_multiply_adds(
            partial(build_model, cfg),
            num_frames=cfg.DATA.NUM_FRAMES,
            size=cfg.DATA.TEST_CROP_SIZE,
        )
        crops, clips = cfg.TEST.NUM_SPATIAL_CROPS, cfg.TEST.NUM_ENSEMBLE_VIEWS
        expected.append(
            [
                model,
                f"{cfg.DATA.NUM_FRAMES} x {crops} x {clips}",
                f"{cfg.DATA.TARGET_FPS:g}",
                f"{cost / 1e9:.1f} G",
                millions(f"configs/models/{model}.yaml"),
                f"{entry.top1:.1f}",
                f"[{name}]({entry.page})",
                f"[{model}.yaml](../configs/models/{model}.yaml)",
            ]
        )

    table = table_below("Baselines")
    assert table.columns == BASELINE_COLUMNS
    assert table.rows == expected
