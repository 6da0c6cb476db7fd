"""The time estimate: the first step, and how long the run takes."""

import re
from collections.abc import Callable

from slowfast.distributed.signals import INTERRUPTED_STATUS

Start = Callable[..., tuple[int, str]]


def test_a_run_logs_its_first_step_and_the_time_it_takes(start: Start) -> None:
    settings = {"TRAIN__REHEARSE": True, "TEST__ENABLE": True, "LOG_PERIOD": 100}
    status, printed = start(SOLVER__MAX_EPOCH=2, **settings)
    assert status == 0

    lines = (
        "rehearsing training, checkpoint, validation and test on a few videos "
        "(TRAIN.REHEARSE False skips it)",
        "rehearsed training",
        "first step done in ",
        "time left for the whole run: about 0:00:",
        "train epoch 1/2  4/4",
    )
    positions = [printed.find(line) for line in lines]
    assert -1 not in positions
    assert positions == sorted(positions)

    seconds = r"0:00:\d\d"
    estimate = (
        rf"about {seconds} \(6 steps in {seconds}(, 1 validation in {seconds})?, "
        rf"test in {seconds}\)"
    )
    assert re.search(estimate, printed)
    assert printed.count(": of 95 weights, ") == 1  # The test alone loads weights.


def test_a_run_of_more_than_a_day_on_a_cpu_says_so(start: Start) -> None:
    keys = ("SOLVER__MAX_EPOCH", "TRAIN__EVAL_PERIOD", "TRAIN__CHECKPOINT_PERIOD")
    settings = dict.fromkeys(keys, 10_000_000)
    status, printed = start(**settings, signal="SIGTERM", when="estimate")
    assert status == INTERRUPTED_STATUS
    assert re.search(r"time left for the whole run: about \d+ days", printed)
    assert "that is longer than a day, on a CPU: use a GPU (NUM_GPUS 1), " in printed
