"""Checks of what is given: numbers of Python and NumPy are taken, truth values, NaN and infinity are not."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pymetaner.errors import SettingError

if TYPE_CHECKING:
    import torch

__all__ = [
    "LARGEST_SEED",
    "check_model",
    "floating",
    "instance",
    "keep",
    "number",
    "one_of",
    "path_of",
    "present_device",
    "several",
    "step_sizes",
    "truth",
    "whole",
]

Kind = TypeVar("Kind")

LARGEST_SEED = 2**32 - 1


def keep(settings: object, check: Callable[..., object], *names: str, **bounds: Any) -> None:
    """Puts what a check gives in the place of some fields of a frozen dataclass.

    Raises:
        SettingError: if one does not pass.
    """
    for name in names:
        object.__setattr__(settings, name, check(name, getattr(settings, name), **bounds))


def whole(name: str, value: object, least: int = 0, most: int | None = None, *, or_else: str = "") -> int:
    """The value as an int; `or_else` says in the message what may stand there instead.

    Raises:
        SettingError: if it is not a whole number of at least `least` and, if given, at most `most`.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        found = int(value)
        if found >= least and (most is None or found <= most):
            return found
    span = f"{least} or more" if most is None else f"{least} to {most}"
    raise SettingError(f"{name}={value!r}: expected a whole number, {span}{or_else and ', or '}{or_else}")


def number(name: str, value: object, *, least: float = 0.0, most: float = math.inf, positive: bool = False) -> float:
    """The value as a float.

    Raises:
        SettingError: if it is not a finite number of at least `least` (if `positive`, above 0) and at most `most`.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:  # of a huge int
            found = math.inf
        if math.isfinite(found) and found <= most and (found > 0 if positive else found >= least):
            return found
    if positive:
        span = "a positive number" if most == math.inf else f"a number above 0, at most {most:g}"
    else:
        span = f"a number, {least:g} or more" if most == math.inf else f"a number from {least:g} to {most:g}"
    raise SettingError(f"{name}={value!r}: expected {span}")


def step_sizes(name: str, value: object) -> float | tuple[float, ...]:
    """A step size, or one for each layer, of which some may be 0.

    Raises:
        SettingError: if one is negative, all are 0, or the value is something else.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        return number(name, value, positive=True)
    rates = tuple(number(name, rate) for rate in value)
    if not any(rates):
        raise SettingError(f"{name}={value!r}: expected numbers of 0 or more, at least one of them above 0")
    return rates


def several(name: str, values: object) -> tuple[object, ...]:
    """The values, one or more.

    Raises:
        SettingError: if there is none, or what was given is not a list.
    """
    found = () if isinstance(values, str) or not isinstance(values, Iterable) else tuple(values)
    if not found:
        raise SettingError(f"{name}={values!r}: expected a list of one or more")
    return found


def truth(name: str, value: object) -> bool:
    """The value, if it is True or False.

    Raises:
        SettingError: if it is not.
    """
    if not isinstance(value, bool):
        raise SettingError(f"{name}={value!r}: expected True or False")
    return value


def instance(name: str, value: object, kind: type[Kind], *, how: str) -> Kind:
    """The value, if it is of a class; `how` says in the message how to get one.

    Raises:
        SettingError: if it is not.
    """
    if not isinstance(value, kind):
        raise SettingError(f"{name}={value!r:.60}: expected a {kind.__name__}: {how}")
    return value


def check_model(model: object, name: str = "model") -> None:
    """Checks that something is a model, and not the folder of one.

    Raises:
        SettingError: if it is not.
    """
    from pymetaner.model import MetaNER  # which stands above this module

    instance(name, model, MetaNER, how="load one with MetaNER.from_pretrained(...)")


def path_of(name: str, value: Any) -> Path:
    """The value as a path.

    Raises:
        SettingError: if it is no path.
    """
    try:
        path = os.fspath(value)  # which raises for what is no path
        if not isinstance(path, str) or "\0" in path:
            raise ValueError("it is of bytes, or holds a null character")
        os.fsencode(path)  # refuses a lone surrogate, which no system takes
    except (TypeError, ValueError) as error:
        raise SettingError(f"{name}={value!r:.60} is not a path ({error}): expected a string or a Path") from error
    return Path(path)


def floating(name: str, value: object) -> torch.dtype:
    """The value, if it is a type of numbers with a floating point.

    Raises:
        SettingError: if it is not.
    """
    import torch  # as below

    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise SettingError(f"{name}={value!r}: expected a floating-point type, such as torch.bfloat16")
    return value


def present_device(name: str, value: str | torch.device) -> torch.device:
    """The device, if it is there and holds numbers.

    Raises:
        SettingError: if it is not.
    """
    import torch  # the command line checks other settings before it takes the time for it

    try:
        found = torch.empty(0, device=value).device
        if found.type == "meta":
            raise NotImplementedError("meta holds no numbers")
    except (RuntimeError, TypeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).split("\n", 1)[0]
        raise SettingError(
            f"{name}={value!r}: there is no such device here ({reason}): expected cpu, cuda, cuda:1, ..."
        ) from None
    return found


def one_of(name: str, value: object, options: Sequence[object]) -> None:
    """Checks that the value is one of some.

    Raises:
        SettingError: if it is not.
    """
    if not any(type(value) is type(option) and value == option for option in options):
        raise SettingError(f"{name}={value!r}: expected one of {', '.join(map(repr, options))}")
