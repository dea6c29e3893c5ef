"""What the machine can still give, by all its limits."""

import resource
import subprocess
import sys

import pytest

from sfumato import machine
from sfumato.errors import UserError
from sfumato.machine import demand_threads, free_memory, processors


@pytest.mark.parametrize(("cores", "limit"), [(1, 64), (16, 64), (64, 256)])
def test_threads_are_bounded_by_the_machine(cores, limit, monkeypatch):
    monkeypatch.setattr(machine, "processors", lambda: cores)
    assert demand_threads("training.threads", limit) == limit
    with pytest.raises(UserError, match=f"training.threads: {limit + 1} threads are more than the limit of {limit}"):
        demand_threads("training.threads", limit + 1)


def test_there_is_some_memory_and_a_processor():
    assert free_memory() > 2**20
    assert processors() >= 1


def test_a_container_s_limit_counts_without_what_can_be_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert free_memory() == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 2**20


def test_the_limit_of_a_shell_counts():
    code = "from sfumato.machine import free_memory; print(free_memory())"

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, preexec_fn=limit, text=True, check=True)
    assert 0 < int(out.stdout) < 2**30
