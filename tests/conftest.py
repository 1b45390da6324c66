"""How the tests share the cores: the slowest files first, so that no core waits for the last."""

import os
from pathlib import Path

import pytest

# Before torch is loaded: threads that wait for one another give way, since there are more of them
# than cores (a fifth of the tests' time).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")


SLOWEST = ("test_smoke", "test_pipeline", "test_processes", "test_teachers", "test_side_by_side")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        name = Path(item.path).stem
        return SLOWEST.index(name) if name in SLOWEST else len(SLOWEST)

    items.sort(key=rank)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as cores; each takes some ten seconds to load what the tests import."""
    return len(os.sched_getaffinity(0))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is brief gives way to the slowest files, whose end the others wait for."""
    if Path(item.path).stem not in SLOWEST and os.nice(0) == 0:
        os.nice(5)
