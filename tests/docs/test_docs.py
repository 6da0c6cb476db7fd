"""Every page keeps its word: links lead somewhere, commands are valid, keys exist, tables are the reference's."""

import argparse
import json
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import torch

from slowfast.config import CfgNode, default_cfg, load_cfg
from slowfast.config.defaults import RETIRED
from slowfast.models import build as models
from slowfast.models.build import build_model, count_multiply_adds, count_parameters
from slowfast.models.zoo import published

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```\n", re.MULTILINE | re.DOTALL)
HERE_FILE = re.compile(r"^cat > (\S+) <<'EOF'\n(.*?)^EOF\n", re.MULTILINE | re.DOTALL)
KEY = r"[A-Z][A-Z_0-9]*(?:\.[A-Z][A-Z_0-9]*)*"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_pages_are_found() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    expected = {
        "README.md",
        "INSTALL.md",
        "DATASET.md",
        "docs/reproduce.md",
        "docs/finetune.md",
        "docs/extend.md",
    }
    assert names >= expected


# ---- Links -----------------------------------------------------------------------------------------------------------


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)]*)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            link = urlsplit(target)
            if link.scheme not in ("http", "https") or not re.fullmatch(
                r"[\w-]+(\.[\w-]+)+", link.netloc
            ):
                broken.append(target)
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@each_page
def test_every_path_in_the_text_is_there(page: Path) -> None:
    paths = re.findall(
        r"`((?:benchmarks|configs|docs|exp|slowfast|tests|tools)/[\w./]+)`", prose(page)
    )
    assert not [path for path in paths if not (ROOT / path).exists()]


# ---- Commands --------------------------------------------------------------------------------------------------------


class _Parsed(Exception):  # noqa: N818, it is no error
    """What a tool made of its command line, before it would start."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the repository, in which pages may write their configs; tools stop after parsing."""
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


def commands(page: Path) -> Iterator[str]:
    """The commands of a page, one line each; the files that it writes are written to the current folder."""
    for _, language, block in BLOCK.findall(page.read_text()):
        if language not in ("bash", "console"):
            continue
        for name, content in HERE_FILE.findall(block):
            Path(name).write_text(content)
        for line in HERE_FILE.sub("", block).replace("\\\n", " ").splitlines():
            for command in line.removeprefix("$ ").split(" && "):
                if shlex.split(command, comments=True):
                    yield command


def check_config(path: str, overrides: list[str]) -> None:
    cfg = load_cfg(path, overrides)
    assert models.MODELS[cfg.MODEL.MODEL_NAME].find_problems(cfg) == []
    for weights in (
        cfg.TRAIN.CHECKPOINT_FILE_PATH,
        cfg.TEST.CHECKPOINT_FILE_PATH,
        cfg.UNIFORMER.PRETRAIN_NAME,
    ):
        assert not weights or weights in published() or weights.endswith((".pth", ".pyth"))


def check_tool(script: str, arguments: list[str]) -> None:
    with pytest.raises(_Parsed) as parsed:
        runpy.run_path(script)["main"](arguments)
    args = parsed.value.args[0]
    if hasattr(args, "cfg"):
        check_config(args.cfg, args.opts)


def check_script(script: str, arguments: list[str]) -> None:
    assert Path(script).is_file()
    if "<name>" not in script:
        check_config(str(Path(script).with_name("config.yaml")), arguments)


def check_pip(arguments: list[str]) -> None:
    for option in ("--constraint", "--requirement"):
        if option in arguments:
            assert Path(arguments[arguments.index(option) + 1]).is_file()
    for name, extras in re.findall(r"(\S*)\[(.+?)\]", " ".join(arguments)):
        assert name != "." or all(
            f'"{extra}": [' in Path("setup.py").read_text() for extra in extras.split(",")
        )
    for name, version in re.findall(r"(\S+)==(\S+)", " ".join(arguments)):
        assert f"{name}=={version}\n" in Path("constraints.txt").read_text()


UNCHECKED = {"apt-get", "cd", "conda", "cp", "docker", "git", "mkdir", "rm", "source", "touch"}


def check(command: str) -> None:
    """Raise if a command would fail for a reason that lies in the page."""
    words = shlex.split(command, comments=True)
    if words[0] == "export":
        words = words[1:]
    while words and re.match(r"[A-Z_]+=", words[0]):
        name = words.pop(0).split("=")[0]
        assert f"\n#   {name} " in (ROOT / "exp/setup.sh").read_text(), f"no script reads {name}"
    if not words or words[0] in UNCHECKED:
        return
    program = Path(words[0]).name
    if program == "torchrun":
        assert words[1] == "--nproc_per_node"
        words, program = ["python", *words[3:]], "python"
    if program == "make":
        targets = re.findall(r"^(\w+):", Path("Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif program == "bash":
        check_script(words[1], words[2:])
    elif program not in ("python", "python3"):
        raise AssertionError(f"{program} is no program that this test knows")
    elif words[1] == "-c":
        compile(words[2], "page", "exec")
    elif words[1:3] == ["-m", "pip"]:
        check_pip(words[3:])
    elif words[1] != "-m":
        check_tool(words[1], words[2:])


@pytest.mark.parametrize(
    "page",
    [
        page for page in PAGES if page.name != "extend.md"
    ],  # whose commands tests/docs/test_extend_page.py runs
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_command_is_valid(page: Path, folder: Path) -> None:
    for command in commands(page):
        try:
            check(command)
        except BaseException as error:
            raise AssertionError(f"{page.name}: {command}") from error


def test_the_commands_of_the_docker_image_are_valid(folder: Path) -> None:
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
def test_a_wrong_command_is_found(command: str, folder: Path) -> None:
    with pytest.raises((Exception, SystemExit)):
        check(command)


# ---- Keys in the text ------------------------------------------------------------------------------------------------


def known_keys(tree: CfgNode, prefix: str = "") -> set[str]:
    keys = set()
    for name, value in tree.items():
        keys |= {f"{prefix}{name}"} | (
            known_keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else set()
        )
    return keys


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name
)
def test_every_key_in_the_text_exists_and_takes_its_value(page: Path, repository: Path) -> None:
    keys = known_keys(default_cfg()) | set(RETIRED)
    for code in re.findall(r"`([^`]+)`", prose(page)):
        words = shlex.split(code) if "'" not in code else [code]
        if re.fullmatch(rf"{KEY}:? .+", code) and words[0].rstrip(":") in keys:
            words[0] = words[0].rstrip(":")
            load_cfg(str(repository / "configs/kinetics.yaml"), words, checks=[])
        else:
            assert {word for word in words if re.fullmatch(rf"{KEY}\.{KEY}", word)} <= keys, code


# ---- The tables of README --------------------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text()


class Table(NamedTuple):
    """A table below a heading."""

    columns: list[str]
    rows: list[list[str]]


def table_below(heading: str) -> Table:
    section = README.split(f"### {heading}\n")[1].split("\n#")[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", section, re.M)
    ]
    return Table(lines[0], lines[2:])


def millions(path: str) -> str:
    """The parameters of a config's model."""
    cfg = load_cfg(str(ROOT / path))
    return _millions(cfg.MODEL.MODEL_NAME, tuple(cfg.UNIFORMER.DEPTH), cfg.MODEL.NUM_CLASSES)


@cache
def _millions(name: str, depths: tuple[int, ...], num_classes: int) -> str:
    cfg = default_cfg()
    cfg.MODEL.MODEL_NAME, cfg.UNIFORMER.DEPTH, cfg.MODEL.NUM_CLASSES = (
        name,
        list(depths),
        num_classes,
    )
    cfg.DATA.NUM_FRAMES = 16  # which MViT has a position for each of
    with torch.device("meta"):
        return f"{count_parameters(build_model(cfg)) / 1e6:.1f} M"


def experiments() -> dict[str, list[dict[str, Any]]]:
    shared = {"UCF101": "UCF101 and HMDB51", "HMDB51": "UCF101 and HMDB51"}
    tables: dict[str, list[dict[str, Any]]] = {}
    for case in json.loads((ROOT / "tests/reference/experiments.json").read_text()):
        tables.setdefault(shared.get(case["benchmark"], case["benchmark"]), []).append(case)
    return tables


@pytest.mark.parametrize("heading", experiments())
def test_the_table_of_experiments_is_the_reference(heading: str) -> None:
    expected = []
    for case in experiments()[heading]:
        name, numbers = case["exp"], case["published"]
        weights = [
            f"[{key}]({entry.page})"
            for key, entry in published().items()
            if entry.experiment == name
        ]
        assert len(weights) == numbers["weights_linked"]
        expected.append(
            [
                case["model"],
                {"K400": "Kinetics-400", "K600": "Kinetics-600"}.get(
                    numbers["pretrain"], numbers["pretrain"]
                ),
                numbers["frames_x_crops_x_clips"].replace("x", " x "),
                str(numbers["stride"] or "-"),
                numbers["flops"].replace("G", " G"),
                millions(f"exp/{name}/config.yaml"),
                numbers["top1"],
                *(weights or ["-"]),
                f"[{name}](exp/{name}): [run](exp/{name}/run.sh), [test](exp/{name}/test.sh)",
            ]
        )
    table = table_below(heading)
    assert table.columns == [
        *(
            "model",
            "pretraining",
            "frames x crops x clips",
            "stride",
            "FLOPs",
            "parameters",
            "top-1",
        ),
        *("weights", "experiment"),
    ]
    assert table.rows == expected


def test_the_table_of_baselines_is_what_torchvision_states_and_what_is_counted() -> None:
    expected = []
    for name, entry in published().items():
        if name.startswith("uniformer_"):
            continue
        model = name.removesuffix("_22k")
        cfg = load_cfg(str(ROOT / f"configs/models/{model}.yaml"))
        cost = count_multiply_adds(
            cfg, num_frames=cfg.DATA.NUM_FRAMES, size=cfg.DATA.TEST_CROP_SIZE
        )
        expected.append(
            [
                model,
                f"{cfg.DATA.NUM_FRAMES} x {cfg.TEST.NUM_SPATIAL_CROPS} x {cfg.TEST.NUM_ENSEMBLE_VIEWS}",
                f"{cfg.DATA.TARGET_FPS:g}",
                f"{cost / 1e9:.1f} G",
                millions(f"configs/models/{model}.yaml"),
                f"{entry.top1:.1f}",
                f"[{name}]({entry.page})",
                f"[{model}.yaml](configs/models/{model}.yaml)",
            ]
        )
    table = table_below("Baselines")
    assert table.columns == [
        *(
            "model",
            "frames x crops x clips",
            "frames/s",
            "FLOPs of a view",
            "parameters",
            "top-1",
            "weights",
            "config",
        )
    ]
    assert table.rows == expected
