"""How cost grows: exponents are those of least squares, limits are kept, and the whole script runs."""

import math
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import linregress

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> Any:
    """A script's module; the scripts import each other by name, as they do when they are run."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))
    return import_module(name)


@pytest.fixture
def growth() -> Any:
    return script("growth")


@pytest.fixture
def apart() -> Any:
    return script("apart")


def test_the_exponent_and_its_error_are_those_of_least_squares(growth):
    sizes = [1, 3, 10, 30, 100]
    assert growth.exponent(sizes, [7 * size**1.5 for size in sizes]) == pytest.approx((1.5, 0), abs=1e-9)
    costs = np.random.default_rng(0).lognormal(sigma=0.3, size=5) * np.array(sizes) ** 2
    expected = linregress(np.log(sizes), np.log(costs))
    assert growth.exponent(sizes, costs) == pytest.approx((expected.slope, expected.stderr))  # pyright: ignore[reportAttributeAccessIssue]
    slope, error = growth.exponent([2, 4], [3, 12])
    assert slope == pytest.approx(2) and math.isnan(error)


def test_the_break_is_the_first_size_whose_unit_costs_too_much_or_that_hits_a_limit(growth):
    resolution, pictures = growth.AXES[0], growth.AXES[-1]
    Cost = growth.Cost

    def breaks(axis, *seconds, hit=""):
        found = {10 * 2**i: Cost(s, 1) for i, s in enumerate(seconds)}
        return growth.where_it_breaks(axis, found | ({10 * 2 ** len(seconds): Cost(hit=hit)} if hit else {}))

    assert breaks(pictures, 1, 2, 4, 8) == "not up to 80"
    assert breaks(pictures, 1, 2, 5, 40) == "at 80: 5.0 times the least time a picture", "1.25 times is no break"
    assert breaks(resolution, 1, 4, 16) == "not up to 40", "pixels are the unit, and they grow with the square"
    assert breaks(resolution, 1, 4, 40) == "at 40: 2.5 times the least time a pixel"
    assert breaks(pictures, 5, 2, 4) == "not up to 40", "a fixed cost that small sizes bear is no break"
    assert breaks(pictures, 1, 2, hit="memory") == "at 40: no memory left"
    assert breaks(pictures, hit="time") == "at 10: no time left"


def test_memory_beyond_the_start_is_counted_and_the_answer_is_the_works_own(apart):
    # From a new process: the fork of one that keeps freed memory, as other tests ask for, would need less of its own.
    code = (
        f"import sys; sys.path.insert(0, {str(Path(apart.__file__).parent)!r})\n"
        "from apart import apart\n"
        "cost = apart(lambda: float(len(bytearray(b'x' * 100_000_000))), 30, 64)\n"
        "print(cost.seconds, cost.bytes)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, held = map(float, done.stdout.split())
    assert seconds == 1e8
    assert held == pytest.approx(2e8, rel=0.1), "the bytes and their copy"


def test_limits_of_time_and_memory_are_kept_and_told(apart):
    begin = time.monotonic()
    assert apart.apart(lambda: time.sleep(60) or 0.0, 0.5, 64).hit == "time"
    assert time.monotonic() - begin < 20
    assert apart.apart(lambda: float(len(bytearray(2**36))), 30, 8).hit == "memory"


def test_what_fails_fails_where_it_was_asked_for(apart):
    with pytest.raises(ZeroDivisionError):
        apart.apart(lambda: 1 / 0, 30, 64)
    with pytest.raises(RuntimeError, match="of another kind"):
        apart.apart(lambda: exec("raise RuntimeError('of another kind')") or 0.0, 30, 64)


def test_the_whole_script_prints_its_tables_and_writes_its_plots(tmp_path):
    sizes = "--resolution --width 32 --batch 1 2 --steps 1 2 --pictures 80 160 --recipes --repeats 1"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "growth.py", *sizes.split(), "--plots", tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[0].strip("| ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert "resolution" not in rows and "recipe" not in rows
    for name in ("cost over width", "cost over batch", "cost over steps", "cost over pictures"):
        assert name in rows
    for name in ("training step", "evaluation", "drawing", "list", "scan", "prepare", "open again", "resume"):
        assert name in rows
    assert "nan" not in done.stdout.split("cost over width")[0], "every size was measured"
    assert {path.name for path in tmp_path.iterdir()} == {"growth-time.svg", "growth-memory.svg"}
    assert "pictures" in (tmp_path / "growth-time.svg").read_text()
