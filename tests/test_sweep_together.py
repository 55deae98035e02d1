"""Runs of a sweep that are one program: their numbers, and one of them that fails."""

import numpy as np
import pytest
from tiny_runs import lines
from tiny_sweep import RATE, write_sweep

from unipost.runs import RunError
from unipost.sweep.record import Folders
from unipost.sweep.run import Asked, run_sweep
from unipost.sweep.settings import load_sweep
from unipost.train import train


def test_one_process_trains_them_and_tells_which_failed(tmp_path, capsys):
    """A rate that ends in NaN stops its own run; the others are those of `train`."""
    rates = f"grid=[{{{RATE}: [1.0e-3, 1.0e-2, 1.0e+38]}}]"
    sweep = load_sweep(write_sweep(tmp_path), [rates, "seeds=[0]"])
    folders, (*good, bad) = Folders(tmp_path / "out"), sweep.runs
    with pytest.raises(RunError, match=r"out: 1 \(learning_rate=1e\+38/0\) failed"):
        run_sweep(sweep, folders.root, Asked())
    said = capsys.readouterr()
    assert "together  3 as one program: " in said.out
    assert "nan; lower the learning rate" in folders.failure(bad)
    assert f"{bad.name}: failed" in said.err and not folders.finished(bad)
    for run in good:
        assert folders.finished(run) and not folders.failure(run)
        train(run.experiment, tmp_path / run.name)
        here, there = lines(folders.of(run)), lines(tmp_path / run.name)
        assert [x["step"] for x in here] == [x["step"] for x in there] == [1, 2, 3]
        for one, other in zip(here, there, strict=True):
            assert one.keys() == other.keys()
            numbers = [[x[key] for key in one] for x in (one, other)]
            np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-7)
        timing = lines(folders.of(run), "timing")
        assert all("update" in line and "tokens" in line for line in timing)
