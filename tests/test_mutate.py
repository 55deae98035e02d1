"""The planted bugs still apply to the source as it is."""

import ast

import pytest
from mutate import MUTATIONS, ROOT, planted


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_applies_and_is_valid_python(name):
    mutation = MUTATIONS[name]
    text = planted(mutation)
    assert text != (ROOT / "unipost" / mutation.file).read_text()
    ast.parse(text)
    for test in mutation.tests.split():
        assert (ROOT / "tests" / test).exists(), test


def test_there_are_at_least_twenty():
    assert len(MUTATIONS) >= 20
