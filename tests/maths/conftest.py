"""Most tests here compile more than they compute."""

import pytest

from tests.machinery import tiny


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with tiny.quick_compiles():
        yield
