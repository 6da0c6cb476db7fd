# Sourced by the run.sh and test.sh of the experiments: where the repository is, and which Python has it installed.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
command -v "$python" >/dev/null || python=python3
