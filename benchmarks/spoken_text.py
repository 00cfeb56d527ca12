"""How the pronunciations of `asa_engine.text` compare with those that a corpus was judged by.

python benchmarks/spoken_text.py ../shared/data/speechocean762/train.jsonl
"""

from __future__ import annotations

import argparse
import collections
import json
import time
from pathlib import Path

from asa_engine.text import speak
from asa_engine.text.phones import bare


def main() -> None:
    """Print the share of words with the corpus's phones, and the time that a text takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="JSON Lines with words and their phones")
    args = parser.parse_args()
    seen: collections.Counter[str] = collections.Counter()
    missed: collections.Counter[str] = collections.Counter()
    seconds = 0.0
    for line in args.manifest.read_text(encoding="utf-8").splitlines():
        utterance = json.loads(line)
        started = time.perf_counter()
        spoken = speak(utterance["text"]).words
        seconds += time.perf_counter() - started
        if len(spoken) != len(utterance["words"]):
            seen["utterances of another length"] += 1
            continue
        for word, judged in zip(spoken, utterance["words"], strict=True):
            phones = tuple(bare(phone["phone"]) for phone in judged["phones"])
            known = [tuple(map(bare, said)) for said in word.pronunciations]
            seen["words"] += 1
            seen[f"from {word.source}"] += 1
            seen["first"] += known[0] == phones
            seen["any"] += phones in known
            forms = [*known, *(tuple(map(bare, said)) for said in word.variants)]
            seen["any or a variant"] += phones in forms
            if phones not in forms:
                missed[f"{word.spoken}: {' '.join(phones)}"] += 1
    words = seen["words"]
    shares = {name: round(seen[name] / words, 4) for name in ("first", "any", "any or a variant")}
    print(json.dumps({**seen, "shares": shares, "ms a text": 1e3 * seconds / 2500}, indent=2))
    print("not among the pronunciations:", missed.most_common(40))


if __name__ == "__main__":
    main()
