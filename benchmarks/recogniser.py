"""What the recogniser hears: learners against Hugging Face's Whisper, and sounds without words.

    python benchmarks/recogniser.py words ../shared/data/speechocean762 --every 5
    python benchmarks/recogniser.py precisions ../shared/data/speechocean762
    python benchmarks/recogniser.py guards ../shared/data/speechocean762 --every 16

Prints the tables of docs/recogniser.md. `words` counts word errors against the text that was read,
on the dev speakers; the reference takes a second or two a recording. `precisions` compares this
recogniser's own precisions only.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import audio_samples as made

from asa_engine.audio import read_audio
from asa_engine.backbones import backbone_folder
from asa_engine.evaluation.manifest import Utterance, read_manifest
from asa_engine.evaluation.metrics import edit_distance
from asa_engine.evaluation.splits import dev_split
from asa_engine.recogniser import Recogniser, Transcript
from asa_engine.recogniser.guards import compression_ratio
from asa_engine.recogniser.whisper import Whisper

NUMBERS = "zero one two three four five six seven eight nine ten".split()
SOUND_S = 20.0
DRAWS = 2000

Samples = NDArray[np.float32]


def plain(text: str) -> list[str]:
    """Return the words in lower case without punctuation, digits spelled out."""
    words = re.sub(r"[^a-z0-9' ]", " ", re.sub(r"(\d)", r" \1 ", text.lower())).split()
    return [NUMBERS[int(word)] if word.isdigit() else word for word in words]


def rate(truths: Sequence[str], heard: Sequence[str]) -> float:
    """Return the word error rate in percent."""
    pairs = [(plain(a), plain(b)) for a, b in zip(truths, heard, strict=True)]
    return 100 * sum(edit_distance(a, b) for a, b in pairs) / sum(len(a) for a, _ in pairs)


def compare(utterances: Sequence[Utterance], backbone: str) -> None:
    """Print word error rates of the recogniser, of its reference, and of faster-whisper.

    The reference hears each recording in one window of 30 s, and, for a second time, in the
    windows that the recogniser cuts and pads: what then remains is arithmetic.
    """
    from asa_engine.recogniser.reference import WindowReference, open_reference

    folder = backbone_folder(backbone)
    texts = [utterance.text for utterance in utterances]
    recordings = [read_audio(utterance.audio) for utterance in utterances]
    reference = open_reference(folder)
    base = [reference.hear(samples) for samples in recordings]
    windows = Recogniser(WindowReference(folder))
    same = [hear(windows, samples).text for samples in recordings]
    print(f"{len(texts)} recordings of {len({u.speaker for u in utterances})} dev speakers\n")
    print("| recogniser | word error rate | words unlike the reference's, its window | ours |")
    print("|---|---|---|---|")

    def row(name: str, heard: Sequence[str]) -> None:
        print(
            f"| {name} | {rate(texts, heard):.2f} % | {rate(base, heard):.1f} % "
            f"| {rate(same, heard):.1f} % |",
            flush=True,
        )

    row("reference, PyTorch fp32, one window of 30 s", base)
    row("reference, PyTorch fp32, this one's windows", same)
    for precision in ("fp32", "int8"):
        recogniser = Recogniser.open(folder, precision=precision)
        row(f"this one, {precision}", [hear(recogniser, samples).text for samples in recordings])
    if importlib.util.find_spec("faster_whisper"):
        row("faster-whisper, greedy, int8", faster_whisper(folder, recordings))


def compare_precisions(utterances: Sequence[Utterance], backbone: str) -> None:
    """Print word error rates at float32 and int8, with and without loops, and how sure they are."""
    folder, texts = backbone_folder(backbone), [plain(utterance.text) for utterance in utterances]
    heard = []
    for precision in ("fp32", "int8"):
        recogniser = Recogniser.open(folder, precision=precision)
        heard.append([plain(hear(recogniser, read_audio(u.audio)).text) for u in utterances])
    words = np.array([len(text) for text in texts])
    errors = np.array([list(map(edit_distance, texts, said)) for said in heard])
    loops = np.array([[len(item) for item in said] for said in heard]).max(0) > 2 * words
    differ = sum(a != b for a, b in zip(*heard, strict=True))
    print(f"{len(texts)} recordings, {words.sum()} words; {differ} have other words")
    for name, kept in (("all", np.ones_like(loops)), (f"without {loops.sum()} loops", ~loops)):
        fp32, int8 = 100 * errors[:, kept].sum(1) / words[kept].sum()
        print(f"{name}: fp32 {fp32:.2f} %, int8 {int8:.2f} %, {fp32 - int8:+.2f}")
    drawn = np.random.default_rng(0).integers(0, len(texts), (DRAWS, len(texts)))
    apart = 100 * (errors[0] - errors[1])[drawn].sum(1) / words[drawn].sum(1)
    low, high = np.percentile(apart, [2.5, 97.5])
    print(f"fp32 - int8 in 95 of 100 draws of these recordings: {low:+.2f} to {high:+.2f}")


def faster_whisper(folder: Path, recordings: Sequence[Samples]) -> list[str]:
    """Transcribe with faster-whisper's own windows and rules, greedily, without time marks."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)
    return [
        "".join(
            segment.text
            for segment in model.transcribe(
                samples,
                language="en",
                beam_size=1,
                temperature=0.0,
                without_timestamps=True,
                condition_on_previous_text=False,
            )[0]
        ).strip()
        for samples in recordings
    ]


def hear(recogniser: Recogniser, samples: Samples) -> Transcript:
    """Transcribe one recording."""
    recognition = recogniser.start()
    recognition.push(samples)
    return recognition.finish()


def guards(utterances: Sequence[Utterance], backbone: str) -> None:
    """Print what the decoder says of learners and of sounds, and what becomes of them."""
    sounds: dict[str, Callable[[int], made.Samples]] = {
        "silence": lambda _: made.silence(SOUND_S),
        "white noise": lambda seed: made.noise(SOUND_S, seed=seed),
        "pink noise": lambda seed: made.noise(SOUND_S, colour="pink", seed=seed),
        "brown noise, loud": lambda seed: made.noise(SOUND_S, -12.0, "brown", seed),
        "melody": lambda seed: made.melody(SOUND_S, seed=seed),
        "chords": lambda _: made.chords(SOUND_S),
        "babble of vowels": lambda seed: made.speech(SOUND_S, seed=seed),
    }
    folder = backbone_folder(backbone)
    whisper, recogniser = (
        kind.open(folder, precision="int8", threads=1) for kind in (Whisper, Recogniser)
    )
    recordings = [read_audio(utterance.audio) for utterance in utterances]
    groups = {
        "learners": recordings,
        "learners, backwards": [np.ascontiguousarray(r[::-1]) for r in recordings[::4]],
    } | {name: [make(seed) for seed in range(3)] for name, make in sounds.items()}
    print("| what | log-probability p1 / p50 | no speech p50 / p99 | compression p99 |", end="")
    print(" words a second p99 | with words | doubted |\n|---|---|---|---|---|---|---|")
    for name, group in groups.items():
        direct = [whisper.hear(samples) for samples in group]
        numbers = np.array([(h.doubts.log_probability, h.doubts.no_speech) for h in direct])
        ratios = [compression_ratio(h.text) for h in direct]
        pace = [len(h.words) / (len(s) / 16_000) for h, s in zip(direct, group, strict=True)]
        finals = [hear(recogniser, samples) for samples in group]
        worded = sum(bool(f.words) for f in finals)
        doubted = sum(bool(f.words) and bool(f.reasons) for f in finals)
        low, middle = np.percentile(numbers[:, 0], [1, 50])
        usual, high = np.percentile(numbers[:, 1], [50, 99])
        print(
            f"| {name} | {low:.2f} / {middle:.2f} | {usual:.2f} / {high:.2f} "
            f"| {np.percentile(ratios, 99):.2f} | {np.percentile(pace, 99):.1f} "
            f"| {worded}/{len(group)} | {doubted} |",
            flush=True,
        )


def main() -> None:
    """Read the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=["words", "precisions", "guards"])
    parser.add_argument("corpus", type=Path, help="folder of speechocean762")
    parser.add_argument("--backbone", default="whisper-tiny.en")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th recording")
    args = parser.parse_args()
    train, dev = dev_split(read_manifest(args.corpus / "train.jsonl"))
    if args.table == "words":
        compare(dev[:: args.every], args.backbone)
    elif args.table == "precisions":
        compare_precisions(dev[:: args.every], args.backbone)
    else:
        guards(train[:: args.every], args.backbone)


if __name__ == "__main__":
    main()
