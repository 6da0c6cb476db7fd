"""INSTALL.md: what it says about licenses is true of the installed wheels."""

import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import av
import pytest

from tests.docs.pages import ROOT, code_blocks, command_lines

PAGE = (ROOT / "INSTALL.md").read_text()
LICENSES = PAGE.partition("\n## Licenses\n")[2]

_bundled = Path(av.__file__).parents[1] / "av.libs"

of_the_wheel = pytest.mark.skipif(
    not _bundled.is_dir() or f"**PyAV** {av.__version__}" not in LICENSES,
    reason="the page describes another build of PyAV",
)


@of_the_wheel
def test_the_commands_show_what_the_page_says() -> None:
    lines = [line for block in code_blocks(LICENSES, "bash") for line in command_lines(block)]
    libraries, license_text = map(_output_of, lines)

    assert re.search(r"^libx264-", libraries, re.MULTILINE)
    assert re.search(r"^libx265-", libraries, re.MULTILINE)
    stated = license_text.partition(" --")[0]
    assert f'"{stated}"' in " ".join(LICENSES.split())
    assert "--enable-libx264 --enable-libx265" in license_text
    assert "--enable-gpl" not in license_text
    assert f"FFmpeg {av.ffmpeg_version_info}" in " ".join(LICENSES.split())


def _output_of(line: str) -> str:
    words = shlex.split(line)
    command = [sys.executable, *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@of_the_wheel
def test_libavcodec_needs_the_encoders() -> None:
    content = next(_bundled.glob("libavcodec-*")).read_bytes()

    assert re.search(rb"libx264-\w+\.so", content)
    assert re.search(rb"libx265-\w+\.so", content)


def _license(distribution: str) -> str:
    fields = metadata.metadata(distribution)
    stated = [fields[name] or "" for name in ("License-Expression", "License") if name in fields]
    classifiers = fields.get_all("Classifier") or []
    return " ".join([*stated, *(text for text in classifiers if text.startswith("License"))])


def _required(distribution: str, found: set[str]) -> set[str]:
    for text in metadata.requires(distribution) or []:
        match = re.match(r"[\w.-]+", text)
        name = re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""
        if "extra ==" in text or name in found:
            continue
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:  # on other systems only
            continue
        found.add(name)
        _required(name, found)
    return found


def test_libraries_state_the_licenses_of_the_page() -> None:
    names = _required("slowfast-uniformer", set()) if _is_installed() else set()
    if not names:
        pytest.skip("the package is not installed")
    free = re.compile(r"\bMIT\b|BSD|Apache|PSF|Python Software|matplotlib|MPL-2\.0")
    others = {name for name in names if not free.search(_license(name))}

    assert {name for name in others if not name.startswith(("nvidia-", "cuda-"))} == set()
    mpl = {name for name in names if "MPL-2.0" in _license(name)}
    assert mpl <= {"tqdm", "certifi"}


def _is_installed() -> bool:
    try:
        metadata.version("slowfast-uniformer")
    except metadata.PackageNotFoundError:
        return False
    return True
