"""A run that is killed goes on, and ends with the numbers that it would have had."""

import os
from pathlib import Path

import pytest
from kills import trials


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no SIGKILL here")
def test_a_killed_run_ends_with_the_same_numbers(tmp_path: Path) -> None:
    """While it trains, and once more; `make long` kills thirty."""
    assert trials([[0.7, 0.9]], tmp_path) == []
