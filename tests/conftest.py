"""The slowest files first, so that no core waits for the last of them."""

from pathlib import Path

import pytest

SLOWEST = ("test_smoke", "test_pipeline", "test_processes", "test_teachers", "test_spread")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        name = Path(item.path).stem
        return SLOWEST.index(name) if name in SLOWEST else len(SLOWEST)

    items.sort(key=rank)
