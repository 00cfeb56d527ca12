"""Scores that models gave, kept in `tests/data`, so that no change moves them unseen.

    python tests/kept_scores.py keep NAME...     keep what these score now: after a wanted change
    python tests/kept_scores.py score NAME       print what one scores

NAME is `pronunciation` or `shipped-acoustic`, which ship, a bundle of `make bundles` or one
of `tests/data/bundles`, which code of long ago wrote. Ten recordings each: of speechocean762
($ASA_SHARED/data), or, for the last, ten beginnings of the demo recording. One thread, kernels at
AVX2 (ASA_CPU_ISA), so that machines differ only where libraries choose by themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
OLD_BUNDLES = DATA / "bundles"
BUNDLES = ROOT / "build" / "bundles"
SHARED = Path(os.environ.get("ASA_SHARED", ROOT.parent / "shared"))
CORPUS = SHARED / "data" / "speechocean762"
SHIPPED = {"pronunciation": "pronunciation", "shipped-acoustic": "acoustic"}
"""Name here -> name of a bundle that ships."""
ISA = "avx2"
RECORDINGS = 10
LIBRARIES = ("numpy", "onnxruntime", "ctranslate2")
_CPU_FIELDS = ("vendor_id", "cpu family", "model", "flags")


def folder_of(name: str) -> Path:
    """Return where a bundle lies, whether it is there or not."""
    if name in SHIPPED:
        return ROOT / "asa_engine" / "models" / SHIPPED[name]
    return next(iter(OLD_BUNDLES.glob(name)), BUNDLES / name)


def file_of(name: str) -> Path:
    """Return where a bundle's scores are kept."""
    return DATA / f"scores-{name}.json"


def machine() -> str:
    """Name what decides the order of sums: the kind of CPU and the libraries' versions."""
    described = Path("/proc/cpuinfo")
    if not described.is_file():
        return platform.platform()
    lines = described.read_text().split("\n\n")[0].splitlines()
    cpu = [line.split(":", 1)[1] for line in lines if line.split("\t")[0].strip() in _CPU_FIELDS]
    digest = hashlib.sha256("".join(cpu).encode()).hexdigest()[:12]
    return " ".join([f"cpu {digest}", *(f"{x} {metadata.version(x)}" for x in LIBRARIES)])


def score(name: str) -> dict[str, Any]:
    """Score ten recordings with every variant of a bundle, in a process of its own.

    Returns:
        `machine`; and `variants`, "backend/precision" -> `files`, the hash of all that it reads,
        and `scores`, recording -> aspect -> score. `words` are a hash of what was recognised,
        where the grader recognises words.
    """
    command = [sys.executable, __file__, "score", name]
    environment = {**os.environ, "ASA_CPU_ISA": ISA, "ASA_PACKED_CACHE": "off"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _score(name: str) -> dict[str, Any]:
    import asa_engine as asa
    from asa_engine.bundle import Bundle

    bundle = Bundle.open(folder_of(name))
    variants = {}
    for backend, precision in bundle.variants():
        if backend == "torch":
            continue
        try:
            engine = asa.load(bundle.path, backend=backend, precision=precision, threads=1)
        except asa.BackendError:  # a GPU's
            continue
        variants[f"{backend}/{precision}"] = {
            "files": _files(bundle, backend, precision),
            "scores": dict(_scores(engine, name)),
        }
    return {"machine": machine(), "variants": variants}


def _files(bundle: Any, backend: str, precision: str) -> str:
    """Hash what a variant reads: the folders of its stages, for graphs have weights beside them."""
    stages = [by.get(backend, {}).get(precision) for by in bundle.stages.values()]
    folders = {str(Path(file).parent) for file in stages if file}
    rows = [
        f"{file} {artifact.sha256}"
        for file, artifact in sorted(bundle.artifacts.items())
        if file in stages or (str(Path(file).parent) in folders and file.endswith(".safetensors"))
    ]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:12]


def _scores(engine: Any, name: str) -> Any:
    """Yield the name and the scores of each recording, or session."""
    from asa_engine.audio import read_audio
    from asa_engine.evaluation.manifest import read_manifest
    from asa_engine.evaluation.sessions import assess_session, read_sessions
    from asa_engine.evaluation.splits import dev_split, session_split

    if folder_of(name).parent == OLD_BUNDLES:
        samples = read_audio(ROOT / "examples" / "audio" / "demo.flac")
        for tenth in range(1, RECORDINGS + 1):
            result = engine.assess((samples[: tenth * len(samples) // RECORDINGS], 16_000))
            yield f"demo {tenth}/{RECORDINGS}", _row(result)
    elif engine.hears_sessions:
        sessions = read_sessions(CORPUS / "train-sessions.jsonl")
        for session in _spread(session_split(sessions)[1]):
            yield session.name, _row(assess_session(engine, session))
    else:
        dev = dev_split(read_manifest(CORPUS / "train.jsonl", check_audio=False))[1]
        for utterance in _spread(dev):
            texts = {key: text for key, text in utterance.texts.items() if key in engine.uses}
            yield utterance.id, _row(engine.assess(utterance.audio, **texts))


def _spread(items: list[Any]) -> list[Any]:
    return [items[index * len(items) // RECORDINGS] for index in range(RECORDINGS)]


def _row(result: Any) -> dict[str, Any]:
    """Return the scores of aspects, and of words and phones where they have some."""
    told = result.to_dict()
    row = {name: score["value"] for name, score in told["scores"].items()}
    words = told.get("words") or []
    if words:
        row["words"] = hashlib.sha256(repr([word["text"] for word in words]).encode()).hexdigest()
        row["words"] = row["words"][:12]
    for index, word in enumerate(words):
        if word.get("score") is not None:
            row[f"word {index}"] = word["score"]
        for place, phone in enumerate(word.get("phones") or []):
            if phone.get("score") is not None:
                row[f"phone {index}.{place}"] = phone["score"]
    return row


def main(what: str, *names: str) -> None:
    """See the module docstring."""
    if what == "score":
        print(json.dumps(_score(*names)))
        return
    for name in names:
        file_of(name).write_text(json.dumps(score(name), indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
