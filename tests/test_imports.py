"""What importing costs, and that every public name is there."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import pymetaner


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light():
    heavy = ("torch", "transformers", "numpy", "huggingface_hub", "seqeval", "rich", "typer", "icu4py", "rjieba")
    found = run(
        f"""
        import sys, time
        start = time.process_time()
        import pymetaner
        spent = time.process_time() - start
        print([name for name in {heavy} if name in sys.modules], spent < 0.3)
        """
    )
    assert found == "[] True"


def test_every_public_name_resolves():
    for name in pymetaner.__all__:
        assert getattr(pymetaner, name) is not None, name
    assert sorted(pymetaner.__all__) == dir(pymetaner)
    assert set(pymetaner._HOMES) == set(pymetaner.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pymetaner.nothing  # noqa: B018


def test_modules_and_functions_do_not_share_names():
    """`pymetaner.train` is a function, whatever modules have been imported."""
    import pymetaner.adaptation
    import pymetaner.evaluation
    import pymetaner.readers
    import pymetaner.training.trainer

    modules = {name for name, value in vars(pymetaner).items() if isinstance(value, type(sys))}
    assert not modules & set(pymetaner.__all__)


def test_errors_are_those_a_caller_would_expect():
    from pymetaner import errors

    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert all(issubclass(c, errors.PymetanerError) for c in classes)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.ModelFileError, OSError)
