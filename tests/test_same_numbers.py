"""The nightly script in its short form: four meshes, 1 x 8, 2 x 4 and 4 x 2 devices."""

import re
import sys

from many_processes import TESTS, begun, ended, environ_of

KINDS = ("sft", "dpo", "grpo")


def test_losses_are_those_of_one_device_on_every_mesh():
    script = TESTS.parent / "benchmarks" / "same_numbers.py"
    arguments = [str(script), "--short", "--steps", "20"]
    ((code, out, err),) = ended(begun(arguments, [environ_of(1)]))
    assert code == 0, out + err
    head, _, *rows, _ = out.splitlines()
    # the losses move, or equal ones would say little
    for kind in KINDS:
        found = re.search(rf"{kind} (-?[\d.]+) to (-?[\d.]+)", head)
        assert found is not None
        assert abs(float(found[1]) - float(found[2])) > 0.03
    assert [row.split()[0] for row in rows] == ["1x8", "1x8", "2x4", "4x2"]
    for row in rows:
        *_, sft, dpo, grpo, tokens = row.split()
        assert all(0 <= float(x) <= 1e-5 for x in (sft, dpo, grpo))
        assert tokens == "equal"


def test_a_difference_is_found(capsys):
    """Of losses, of sampled tokens, and a loss that is no number."""
    sys.path.insert(0, str(TESTS.parent / "benchmarks"))
    from same_numbers import compare

    base = {"tokens": "a", "sft": [1.0, 2.0]}
    assert compare(base, "data 8", {"tokens": "a", "sft": [1.0, 2.0]}, "1x8")
    for tokens, second in (("b", 2.0), ("a", 2.0001), ("a", float("nan"))):
        found = {"tokens": tokens, "sft": [1.0, second]}
        assert not compare(base, "data 8", found, "1x8")
    assert capsys.readouterr().out.count("FAILED") == 3
