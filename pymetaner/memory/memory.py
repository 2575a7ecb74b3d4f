"""The memory: opened, changed, and exchanged with files; `contents.py` is what reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from pymetaner.errors import SettingError
from pymetaner.forks import unforked
from pymetaner.memory.bank import as_id
from pymetaner.memory.changes import add, adopt, rebuild
from pymetaner.memory.contents import Contents, absolute
from pymetaner.memory.encoder import SentenceEncoder, check_interface, check_labelled
from pymetaner.memory.mirror import Mirror
from pymetaner.memory.store import CALIBRATION, Store
from pymetaner.readers import read
from pymetaner.sentence import Sentence, is_text
from pymetaner.words import regroup as regrouped

if TYPE_CHECKING:
    from pymetaner.calibration import Calibration
    from pymetaner.engine import InnerOptimizer, Precision
    from pymetaner.inputs import Taggable
    from pymetaner.learning import SupportCount

__all__ = ["Memory"]


class Memory(Contents):
    """Labelled sentences and their vectors, searchable the moment they are added.

    Searches and changes may come from any number of threads. Changes made by another process, or through another
    `Memory` of the same file, are seen by the next call. A forked child may go on with it (in RAM: with its own copy).

    Args:
        encoder: makes the vectors: a `MetaNER`.
        path: the memory's file, made if it is missing. None keeps everything in RAM.
        read_only: never write, and ask for neither a writable file nor folder: for a memory in an installed package.
        rebuild: where another encoder made the file's vectors, embed its sentences again instead of raising.
        progress: show a bar while rebuilding.

    Raises:
        MemoryFileError: if the file is missing (read_only), damaged, truncated, locked, or not a memory.
        MemoryReadOnlyError: if it cannot be written and read_only is false.
        EncoderMismatchError: if another encoder made its vectors and rebuild is false.
        LabelMismatchError: if its sentences have entity types that the encoder does not know.
        SaveError: if it cannot be made.

    Example:
        >>> with Memory(model) as memory:
        ...     _ = memory.add(Sentence(("Ada", "slept"), ("B-PER", "O")))
        ...     hit = memory.search(model.embed([Sentence(("Ada", "slept"))]), k=1)[0][0]
        >>> hit.sentence.entities[0].text
        'Ada'
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        path: str | os.PathLike[str] | None = None,
        *,
        read_only: bool = False,
        rebuild: bool = False,
        progress: bool = False,
    ) -> None:
        check_interface(encoder)
        if read_only and (path is None or rebuild):
            raise SettingError("read_only=True needs the path of a memory and rebuild=False: leave one of them out")
        place = None if path is None else absolute(path)

        def opened() -> Store:
            if place is None:
                return Store.new(encoder.fingerprint, encoder.dim)
            return Store.read_only_at(place) if read_only else Store.at(place, encoder.fingerprint, encoder.dim)

        self._start(encoder, opened, rebuild, progress)

    @classmethod
    def load(
        cls,
        encoder: SentenceEncoder,
        path: str | os.PathLike[str],
        *,
        rebuild: bool = False,
        progress: bool = False,
    ) -> Memory:
        """A memory in RAM with what a file holds; the file is only read, and changes stay in RAM.

        Args and errors are those of `Memory`; the file must exist.
        """
        check_interface(encoder)
        memory = cls.__new__(cls)
        memory._start(encoder, partial(Store.copy_of, absolute(path)), rebuild, progress)
        return memory

    def _start(self, encoder: SentenceEncoder, opened: Callable[[], Store], renew: bool, progress: bool) -> None:
        with unforked():
            store = opened()
            self._mirror = Mirror(encoder, store)
        self._path, self._read_only = store.path, store.read_only
        try:
            adopt(self._mirror, always=renew, progress=progress)
            len(self)  # loads and checks
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path | None:
        """The memory's file, absolute; None if it is in RAM."""
        return self._path

    @property
    def read_only(self) -> bool:
        """True if it was opened for reading only."""
        return self._read_only

    def add(self, sentences: Sentence | Iterable[Sentence], *, source: str = "", progress: bool = False) -> list[int]:
        """The ids of the sentences, in their order; the next search finds them.

        All or nothing: they are on disk when this returns, or nothing has changed. A sentence that is there already,
        with the same words and tags, stays as it is, and its id is returned.

        Args:
            sentences: labelled sentences, or one.
            source: where they come from, kept with them (see `sources`).
            progress: show a bar while they are embedded.

        Raises:
            DataError: if one is not labelled, or not a sentence of strings.
            SettingError: if the source is not text.
            EmptyDataError: if there is none, or one has no word.
            LabelMismatchError: if an entity type is not in the encoder's label scheme.
            EncoderMismatchError: if the encoder has changed since the memory was filled.
            EncoderError: if the encoder gives vectors that are not finite or not of length 1.
            MemoryReadOnlyError: if the memory is open for reading only.
            SaveError: if the disk is full.
        """
        if not isinstance(source, str) or not is_text(source):
            raise SettingError(f"source is {source!r}: expected a string of whole characters, e.g. a file's name")
        batch = check_labelled([sentences] if isinstance(sentences, Sentence) else sentences, self.encoder.types)
        adopt(self._mirror)
        return add(self._mirror, batch, source, progress)

    def add_unlabelled(
        self, texts: Taggable, *, confidence: float = 0.7, source: str = "unlabelled", progress: bool = False
    ) -> list[int]:
        """The ids of those of some texts that the model is sure of, added with its own tags for labels.

        Args:
            texts: what `pymetaner.adapt` takes, in the language and of the kind that is to be tagged.
            confidence: a text is added if it has an entity and no word's tag is less probable, 0 to 1.
            source: where they come from; ``memory.remove(memory.sources()["unlabelled"])`` takes them out again.
            progress: show bars.

        Raises: as `add` does, and InputError for what is not text. No text that qualifies is no error.
        """
        from pymetaner.unlabelled import pseudo_labelled  # stands above this module, as calibration.py does

        model: Any = self.encoder  # a memory of a model has a model
        found = pseudo_labelled(model, texts, confidence=confidence, progress=progress)
        return self.add(found, source=source, progress=progress) if found else []

    def remove(self, ids: int | Iterable[int]) -> int:
        """How many sentences were removed; ids that are not there do not count.

        Raises:
            InputError: if something is not an integer; then nothing is removed.
            MemoryReadOnlyError: if the memory is open for reading only.
            SaveError: if the disk is full.
        """
        many = ids if isinstance(ids, Iterable) and not isinstance(ids, (str, bytes)) else [ids]
        wanted = [as_id(key) for key in many]
        with self._mirror.changing() as store:
            return store.delete([key for key in wanted if key in self._mirror.bank])

    def clear(self) -> int:
        """Removes everything, the calibration too, and returns how many sentences there were. Raises as `remove`."""
        with self._mirror.changing() as store:
            return store.delete(None)

    def calibrate(
        self,
        *,
        ks: Sequence[SupportCount] = ("all", 2, 4),
        lrs: Sequence[float] | None = None,
        steps: Sequence[int] = (1,),
        knns: Sequence[float] = (0.3, 0.5, 0.7),
        optimizer: InnerOptimizer = "sgd",
        most: int = 100,
        most_for_all: int = 10_000,
        batch_size: int = 16,
        precision: Precision = "fp32",
        progress: bool = False,
    ) -> Calibration:
        """The settings of adapting that suit this memory and the model it was opened with; as `pymetaner.calibrate`.

        They are kept in the memory (unless it is read only), and `pymetaner.adapt` uses them where it is given none.
        """
        # calibration.py stands above this module; the method is here for those who look for it on the memory.
        from pymetaner.calibration import calibrate

        reading, _ = self.version()
        model: Any = self.encoder  # a memory of a model has a model
        found = calibrate(
            model,
            self,
            ks=ks,
            lrs=lrs,
            steps=steps,
            knns=knns,
            optimizer=optimizer,
            most=most,
            most_for_all=most_for_all,
            batch_size=batch_size,
            precision=precision,
            progress=progress,
        )
        if not self.read_only:
            with self._mirror.changing() as store:
                if len(self._mirror.bank) and self._mirror.readings == reading:  # else emptied or rebuilt meanwhile
                    store.write_note(CALIBRATION, json.dumps(found.arguments))
        return found

    def import_file(
        self,
        path: str | os.PathLike[str],
        *,
        source: str | None = None,
        regroup: bool = True,
        progress: bool = False,
        **options: Any,
    ) -> list[int]:
        """The ids of a file's labelled sentences, added to the memory.

        Args:
            path: a column file or JSONL.
            source: where they come from; the file's name by default.
            regroup: make words of runs of one-character Chinese tokens, as for the sentences that a model tags.
            progress: show bars.
            options: those of `pymetaner.readers.read`.

        Raises: as `pymetaner.readers.read` and `add` do.
        """
        sentences: Iterable[Sentence] = read(path, progress=progress, **options).sentences
        if regroup:
            sentences = map(regrouped, sentences)
        return self.add(sentences, source=_name(path) if source is None else source, progress=progress)

    def copy_for(self, encoder: SentenceEncoder, *, calibration: bool = False) -> Memory:
        """A memory in RAM with the same sentences for an encoder; changes stay apart.

        They are embedded anew if the encoder gives other vectors.

        Args:
            encoder: the encoder.
            calibration: copy it too; it was found for all the weights of this memory's encoder.

        Raises:
            LabelMismatchError: if the encoder does not know all of the entity types.
        """
        check_interface(encoder)

        def copied() -> Store:
            with self._mirror.locked() as store:
                copy = store.copy()
            if not calibration:
                with copy.writing():
                    copy.write_note(CALIBRATION, None)
            return copy

        memory = Memory.__new__(Memory)
        memory._start(encoder, copied, renew=True, progress=False)
        return memory

    def rebuild(self, encoder: SentenceEncoder | None = None, *, progress: bool = False) -> None:
        """Embeds every sentence again, and goes on with this encoder; all or nothing.

        Searches go on meanwhile, on the old vectors. A calibration, found for the old encoder, is dropped.

        Args:
            encoder: the new one; by default the memory's own, e.g. after training it.
            progress: show a bar.

        Raises:
            LabelMismatchError: if the sentences have entity types that the encoder does not know.
            EncoderError: if it gives vectors that are not finite or not of length 1.
            MemoryReadOnlyError: if the memory is open for reading only.
            SaveError: if the disk is full.
        """
        encoder = self.encoder if encoder is None else encoder
        check_interface(encoder)
        rebuild(self._mirror, encoder, progress)

    def close(self) -> None:
        """Makes the memory one plain file again and ends its use; without it, that happens at exit."""
        self._mirror.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        try:
            count = f"{len(self)} sentence{'s' * (len(self) != 1)}"
        except Exception as error:
            count = str(error)
        return f"Memory({count}, {self.path or 'in RAM'}{', read only' if self.read_only else ''})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Memory is an open file, which cannot be pickled or deep-copied: pass memory.path on (or the path of a "
            "memory.save(path)), and open Memory(encoder, path) there"
        )


def _name(path: str | os.PathLike[str]) -> str:
    """The name of a file, as text even where it is none."""
    return os.fsencode(Path(path).name).decode("utf-8", "replace")
