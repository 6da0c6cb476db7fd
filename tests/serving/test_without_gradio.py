"""The demo without gradio."""

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["gradio"] = None  # as if it were not installed
from slowfast.commands.serve import main
sys.exit(main(["output/quickstart"]))
"""


def test_the_missing_package_is_named() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    message = "error: the page needs gradio, which the extra [demo] brings. Run: pip install gradio"
    assert (result.returncode, result.stderr) == (1, f"{message}\n")
