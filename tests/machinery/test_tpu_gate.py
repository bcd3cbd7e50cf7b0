"""What the gate of the TPU's compiler lets through; what it compiles takes a venv of its own."""

import pytest

from timings import tpu_gate

ROW = {"cell": "v5e: a", "memory": 2**30, "temporaries": 10**6, "bytes": 1e8}


def test_every_cell_is_in_the_table():
    table = tpu_gate.read(tpu_gate.TABLE)
    assert set(table) == set(tpu_gate.cells())
    assert tpu_gate.problems(list(table.values()), table) == []
    assert len({row["libtpu"] for row in table.values()}) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"bytes": 1.09e8, "temporaries": 1_090_000}, None),
        ({"bytes": 1.11e8}, "v5e: a: bytes grew from 100,000,000 to 111,000,000"),
        ({"temporaries": 1_200_000}, "temporaries grew from 1,000,000 to 1,200,000"),
        ({"memory": 17 * 2**30}, "takes 17.0 GiB of a v5e's 16"),
        ({"error": "RESOURCE_EXHAUSTED"}, "v5e: a does not compile: RESOURCE_EXHAUSTED"),
        ({"cell": "v5e: b"}, "v5e: b is not in the table"),
    ],
)
def test_growth_and_what_does_not_compile_are_problems(change, said):
    found = tpu_gate.problems([ROW | change], {"v5e: a": ROW})
    assert len(found) == (said is not None) and all(said in sentence for sentence in found)
