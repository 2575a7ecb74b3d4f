"""Every error that pymetaner raises on purpose.

Each message says what was given, what was expected and what to do. Catch `PymetanerError` for all of them; the
classes that stand for a wrong value or a missing file also derive from the built-in exception that a caller
would expect.
"""

from __future__ import annotations


class PymetanerError(Exception):
    """The base of every error raised by pymetaner."""


class InputError(PymetanerError, ValueError):
    """What was given to tag has a shape or a content that cannot be tagged (a number, a lone surrogate, ...)."""


class SettingError(PymetanerError, ValueError):
    """A setting is outside its range or does not go with another one (k=0, a negative learning rate, ...)."""


class DataError(PymetanerError, ValueError):
    """Labelled data cannot be used; for a file the message starts with its name and line."""


class EmptyDataError(DataError):
    """There is no sentence, or a sentence without a word, where labelled sentences are needed."""


class LengthMismatchError(DataError):
    """A sentence has more or fewer tags than words."""


class TagError(DataError):
    """A tag is not of any known notation, or an entity type is not in the label scheme."""


class SpanError(DataError):
    """A labelled character span is outside its text, empty, or overlaps another."""


class LabelSchemeError(PymetanerError, ValueError):
    """The labels of a model are not a usable set of entity tags."""


class ModelFileError(PymetanerError, OSError):
    """A model folder is missing, incomplete, truncated or not a model."""


class UnsupportedModelError(PymetanerError, ValueError):
    """The model is readable, but cannot be adapted: its architecture, or weights made in `torch.inference_mode`."""


class SaveError(PymetanerError, OSError):
    """Writing failed (a full disk, no permission); what was there before is untouched."""


class MemoryFileError(PymetanerError, OSError):
    """A memory file is missing, damaged, or not a pymetaner memory."""


class MemoryReadOnlyError(PymetanerError, OSError):
    """A memory opened for reading only was asked to change."""


class BankFileError(PymetanerError, OSError):
    """The file of a `CosineBank` is missing, damaged, or something else."""


class EncoderError(PymetanerError, ValueError):
    """An encoder gave sentence vectors of a wrong shape, not finite, or not of length 1."""


class EncoderMismatchError(PymetanerError, ValueError):
    """The vectors of a memory were made by another encoder than the one at hand."""


class LabelMismatchError(PymetanerError, ValueError):
    """The labels of a memory or of a sentence are outside the label scheme of the model."""


class NumericsError(PymetanerError, ArithmeticError):
    """Logits, a loss or weights are not finite: damaged weights, or steps that are far too large."""


class BackendError(PymetanerError, RuntimeError):
    """The compiled extension is missing or was asked for something it does not have."""


class MemoryLimitError(PymetanerError, MemoryError):
    """A single sentence with what it learns from does not fit into the memory there is."""
