"""Builds the default model: models/default, from an encoder folder and the data it is allowed to ship.

    python models/build.py --encoder ENCODER_FOLDER --data DATA_FOLDER --run runs/default

Trains on nine tenths of the five Universal NER train sets, keeps the other tenth (and some Europeana French) as the
memory, so that the memory holds sentences the weights have not seen, and packs the result. Killed, it goes on where it
was when called again.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import torch

from pymetaner import Memory, MetaNER, Sentence, Settings, TrainSettings, read, train

UNER = {
    "en_ewt": "train_prelim",
    "pt_bosque": "train",
    "zh_gsd": "train",
    "da_ddt": "train",
    "sv_talbanken": "train",
}
FRENCH = 400  # sentences of Europeana French in the memory
SETTINGS = TrainSettings(
    steps=1200, lr=4e-4, evaluate_every=600, checkpoint_every=50, mask_probability=0.1, lambda_max=1.0
)
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True, help="folder of a multilingual encoder")
    parser.add_argument("--data", type=Path, required=True, help="folder with uner/ and europeana/")
    parser.add_argument("--run", type=Path, default=Path("runs/default"), help="where the training run is kept")
    parser.add_argument("--out", type=Path, default=HERE / "default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    learned, held_out, dev = split(arguments.data)
    if not (arguments.run / "training.json").exists():
        model = MetaNER.from_encoder(arguments.encoder, ["PER", "ORG", "LOC"], seed=95)
        print(train(model, learned, arguments.run, dev=dev, settings=SETTINGS, progress=True))
    model = MetaNER.from_pretrained(arguments.run)
    model.settings = replace(model.settings, lr=Settings().lr)
    model.memory = fill(model, held_out, arguments.data)
    model.save_pretrained(arguments.out, packed=True)
    print(f"{arguments.out}: {len(model.memory)} sentences in the memory")


def split(data: Path) -> tuple[list[Sentence], dict[str, list[Sentence]], list[Sentence]]:
    """Sentences to train on, sentences by set for the memory, and dev sentences.

    Every tenth sentence is for the memory. Of the rest, every second one without an entity is left out: most sentences
    have none, and a step learns more from those that do.
    """
    learned: list[Sentence] = []
    held_out: dict[str, list[Sentence]] = {}
    dev: list[Sentence] = []
    for name, part in UNER.items():
        sentences = list(read(data / "uner" / name / f"{part}.txt"))
        learned += [s for i, s in enumerate(sentences) if i % 10 != 9 and (s.entities or i % 2)]
        held_out[f"uner/{name}"] = sentences[9::10]
        dev += list(read(data / "uner" / name / "dev.txt"))[::2]
    return learned, held_out, dev


def fill(model: MetaNER, held_out: dict[str, list[Sentence]], data: Path) -> Memory:
    """The memory: held-out sentences of 4 to 60 words, and French ones with an entity that were read cleanly.

    Europeana is scanned newspapers: a sentence is taken if nearly all its words are plain words or punctuation.
    """
    memory = Memory(model)
    for source, sentences in held_out.items():
        memory.add([s for s in sentences if 4 <= len(s) <= 60], source=source, progress=True)
    french = [s for s in read(data / "europeana" / "fr" / "train.txt") if 6 <= len(s) <= 40 and s.entities and clean(s)]
    memory.add(french[:: len(french) // FRENCH][:FRENCH], source="europeana/fr", progress=True)
    return memory


def clean(sentence: Sentence) -> bool:
    """Whether nearly all words of a scanned sentence look like words."""
    odd = sum(
        not re.fullmatch(r"[^\W\d_]{2,}['’]?|[aàylndsjmc]['’]?|[AÀM]|\d+|[.,;:!?()«»-]", w) for w in sentence.words
    )
    return 30 * odd <= len(sentence)


if __name__ == "__main__":
    main()
