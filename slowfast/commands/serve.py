"""Serve a page and a JSON endpoint on which others try trained models.

WEIGHTS is a checkpoint, the OUTPUT_DIR of a run, an exported folder, a published name or
hf:org/name. Several models are shown side by side. The page is for this machine alone unless you
give a --host. Videos that people send are deleted right after use.

Exit status: 0 stopped by Ctrl-C or SIGTERM, 1 the work failed, such as a port in use,
2 wrong usage.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slowfast.commands import cli
from slowfast.utils import plugins
from slowfast.utils.text import printable

if TYPE_CHECKING:
    from slowfast.inference.classifier import Classifier

PASSWORD_VARIABLE = "SLOWFAST_PASSWORD"

_MAX_EXAMPLES = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM, and return the exit status."""
    args = _make_parser().parse_args(arguments)
    return cli.run(lambda: _serve(args))


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    parser.add_argument("weights", nargs="+", metavar="WEIGHTS", help="trained models")
    parser.add_argument(
        "--examples",
        nargs="+",
        default=[],
        metavar="PATH",
        help="videos, folders or patterns to pick from on the page",
    )

    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    server.add_argument(
        "--port",
        type=cli.number(int, least=0, most=65535),
        default=7860,
        metavar="N",
        help="port, 0 for any free one (default: 7860)",
    )
    server.add_argument(
        "--password-file",
        type=cli.path,
        metavar="FILE",
        help=f"file of the password, for any user name (default: ${PASSWORD_VARIABLE}, or none)",
    )

    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-megabytes",
        type=cli.number(float, least=0.001),
        default=100.0,
        metavar="X",
        help="largest upload (default: 100)",
    )
    limits.add_argument(
        "--max-seconds",
        type=cli.seconds,
        default=60.0,
        metavar="T",
        help="longest video, such as 60 or 5min (default: 60)",
    )
    limits.add_argument(
        "--max-waiting",
        type=cli.number(int, least=0),
        default=16,
        metavar="N",
        help="requests that may wait for their turn (default: 16)",
    )

    model = parser.add_argument_group("model")
    model.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    cli.add_model_options(model)
    plugins.add_argument(parser)
    return parser


def _serve(args: argparse.Namespace) -> int:
    _check_installed()
    password = _read_password(args.password_file)

    from slowfast.serving import server

    with server.bind(args.host, args.port) as listener, server.private_folder() as folder:
        plugins.import_plugins(args.imports)
        examples = _find_examples(args.examples)
        classifiers = _load(args)

        from slowfast.serving.application import build_application
        from slowfast.serving.request_queue import RequestQueue
        from slowfast.serving.service import Service
        from slowfast.serving.uploads import Uploads

        service = Service(
            classifiers,
            Uploads(folder, max_bytes=round(args.max_megabytes * 1e6)),
            queue=RequestQueue(max_waiting=args.max_waiting),
            examples=examples,
            max_seconds=args.max_seconds,
        )
        is_local = server.is_local(listener)
        if not (is_local or password):
            print(
                "warning: everybody who reaches this machine can use the page. Give a password: "
                "--password-file",
                file=sys.stderr,
            )
        application = build_application(service, password=password, is_local=is_local)
        print(
            f"{', '.join(map(printable, classifiers))}: {server.address_of(listener)}", flush=True
        )
        server.serve(application, listener)
    return 0


def _check_installed() -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(
            "the page needs gradio, which the extra [demo] brings. Run: pip install gradio"
        )


def _read_password(path: Path | None) -> str:
    """Return the password, "" for none."""
    if path is None:
        password = os.environ.get(PASSWORD_VARIABLE)
        if password == "":
            raise cli.UsageError(f"${PASSWORD_VARIABLE} is empty. Unset it, or set a password")
        return password or ""
    password = path.read_text().strip("\r\n")
    if not password:
        raise cli.UsageError(f"argument --password-file: {path} holds no password")
    return password


def _load(args: argparse.Namespace) -> "dict[str, Classifier]":
    """Return the models by names that differ."""
    classifiers: dict[str, Classifier] = {}
    for weights in args.weights:
        name = _unique(_name_of(weights), classifiers)
        classifiers[name] = cli.load_classifier(weights, args)
    return classifiers


def _find_examples(paths: Sequence[str]) -> dict[str, Path]:
    """Return the examples by names that differ.

    Raises:
        ValueError: If a path stands for no video.
    """
    from slowfast.inference.input_paths import find_inputs

    examples: dict[str, Path] = {}
    for path in paths:
        for x in find_inputs(path):
            if not isinstance(x, str):
                raise ValueError(x.reason)
            if not Path(x).is_file():
                raise ValueError(f"{x}: is no video file, so it cannot be an example")
            examples[_unique(printable(Path(x).name), examples)] = Path(x).absolute()
            if len(examples) > _MAX_EXAMPLES:
                raise ValueError(f"--examples: more than {_MAX_EXAMPLES} videos. Name fewer")
    return examples


def _name_of(weights: str) -> str:
    """Return a name for people: that of the run, the folder, the file or the repository."""
    if weights.startswith("hf:"):
        return weights
    return printable(Path(weights).absolute().name)


def _unique(name: str, taken: "dict[str, Classifier] | dict[str, Path]") -> str:
    number = 2
    candidate = name
    while candidate in taken:
        candidate = f"{name} ({number})"
        number += 1
    return candidate
