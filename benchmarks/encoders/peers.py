"""The runtimes that are compared: one small class each.

A peer turns log-mel [B, n_mels, T] in memory into hidden states [B, ceil(T / 2), D] in memory,
both float32 NumPy arrays. Libraries are imported when a peer is made, so that each worker process
holds one of them. This module is read by the interpreter of the peers' own environment: it needs
NumPy and nothing of asa_engine.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOT_TIMED", "PEERS", "REFERENCE", "Files", "NotHere", "Peer"]

Array = NDArray[np.float32]
Encode = Callable[[Array], Array]

REFERENCE = "torch/fp32"

# Runtimes that were looked at and are not in the table, and why.
NOT_TIMED = {
    "whisper.cpp": "pywhispercpp can run the encoder alone (whisper_encode), but neither it nor "
    "the C API behind it gives the encoder's output, so its error cannot be checked, and nothing "
    "unchecked is timed; it also takes no window shorter than 30 s there"
}


class NotHere(Exception):
    """A peer cannot run in this environment; the message says why."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where one model's weights are.

    Attributes:
        hugging_face: Folder with `config.json` and `model.safetensors`.
        ctranslate2: Folder with CTranslate2's `model.bin`.
        onnx: Folder with `encoder.fp32.onnx` and `encoder.int8.onnx`.
    """

    hugging_face: Path
    ctranslate2: Path
    onnx: Path


class Peer(ABC):
    """One runtime at one precision.

    Attributes:
        package: Distribution whose version is stated.
        label: What tables call the runtime.
        precision: Arithmetic of the matrix products.
        foreign: Whether it lives in the peers' environment.
        copies: Whether copies with one thread each can run side by side in one process.
    """

    package: ClassVar[str]
    label: ClassVar[str]
    precision: ClassVar[str]
    foreign: ClassVar[bool] = True
    copies: ClassVar[bool] = True

    def __init__(self, files: Files, threads: int) -> None:
        self.files = files
        self.threads = threads
        self._copies: list[Peer] = []

    @abstractmethod
    def encode(self, mel: Array) -> Array:
        """Map log-mel [B, n_mels, T] to hidden states [B, ceil(T / 2), D]."""

    def prepare(self, shape: tuple[int, int, int]) -> None:
        """Do what the runtime does once for an input shape; most do nothing."""
        return None

    def version(self) -> str:
        """Return the version of the library."""
        return metadata.version(self.package)

    def ways(self, shape: tuple[int, int, int]) -> dict[str, Encode]:
        """Return the ways to encode windows of this shape; the fastest one is timed."""
        if shape[0] == 1:
            return {"": self.encode}
        ways: dict[str, Encode] = {"one by one": self._one_by_one, "one batch": self.encode}
        if self.copies and self.threads > 1:
            if not self._copies:
                self._copies = [type(self)(self.files, 1) for _ in range(self.threads)]
            for copy in self._copies:
                copy.prepare((1, *shape[1:]))
            ways["side by side"] = self._side_by_side
        return ways

    def _one_by_one(self, mel: Array) -> Array:
        return np.concatenate([self.encode(window[None]) for window in mel])

    def _side_by_side(self, mel: Array) -> Array:
        """Give every copy every n-th window."""
        step = len(self._copies)
        with ThreadPoolExecutor(step) as pool:
            parts = list(
                pool.map(
                    lambda i: [self._copies[i].encode(window[None]) for window in mel[i::step]],
                    range(step),
                )
            )
        return np.concatenate([parts[i % step][i // step] for i in range(len(mel))])


class Torch(Peer):
    """Hugging Face's encoder as it stands, at the length of the window."""

    package, label, precision = "torch", "PyTorch", "fp32"
    copies = False  # the thread count is one for the whole process

    def __init__(self, files: Files, threads: int) -> None:
        super().__init__(files, threads)
        self.torch: Any = import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_num_interop_threads(1)
        self.encoder = hugging_face_encoder(files.hugging_face)
        self._positions = self.encoder.embed_positions.weight

    def prepare(self, shape: tuple[int, int, int]) -> None:
        """Trim the positional table: the encoder insists on windows as long as it."""
        frames = (shape[2] + 1) // 2
        self.encoder.config.max_source_positions = frames
        self.encoder.embed_positions = self.torch.nn.Embedding.from_pretrained(
            self._positions[:frames]
        )

    def encode(self, mel: Array) -> Array:
        """See `Peer.encode`."""
        with self.torch.inference_mode():
            return self._states(self.encoder, mel)

    def _states(self, module: Any, mel: Array) -> Array:
        states: Array = module(self.torch.from_numpy(mel)).last_hidden_state.float().numpy()
        return states


class TorchBf16(Torch):
    """bf16 in two ways: autocast over fp32 weights, and the whole module in bf16."""

    precision = "bf16"

    def prepare(self, shape: tuple[int, int, int]) -> None:
        """Trim, then copy the module in bf16."""
        super().prepare(shape)
        self._lower = import_module("copy").deepcopy(self.encoder).to(self.torch.bfloat16)

    def ways(self, shape: tuple[int, int, int]) -> dict[str, Encode]:
        """Cross both ways with one by one and in one batch."""
        ways: dict[str, Encode] = {}
        for name, encode in (("autocast", self._autocast), ("module in bf16", self._in_bf16)):
            ways[name if shape[0] == 1 else f"{name}, one batch"] = encode
            if shape[0] > 1:
                ways[f"{name}, one by one"] = lambda mel, encode=encode: np.concatenate(  # type: ignore[misc]
                    [encode(window[None]) for window in mel]
                )
        return ways

    def encode(self, mel: Array) -> Array:
        """Encode under autocast."""
        return self._autocast(mel)

    def _autocast(self, mel: Array) -> Array:
        with self.torch.inference_mode(), self.torch.autocast("cpu", self.torch.bfloat16):
            return self._states(self.encoder, mel)

    def _in_bf16(self, mel: Array) -> Array:
        with self.torch.inference_mode():
            cast = self.torch.from_numpy(mel).to(self.torch.bfloat16)
            states: Array = self._lower(cast).last_hidden_state.float().numpy()
            return states


class TorchCompile(Torch):
    """torch.compile in its default mode, fixed shapes."""

    label = "torch.compile"

    def __init__(self, files: Files, threads: int) -> None:
        super().__init__(files, threads)
        self._by_length: dict[int, Any] = {}

    def prepare(self, shape: tuple[int, int, int]) -> None:
        """Trim and compile, once a length."""
        super().prepare(shape)
        if shape[2] not in self._by_length:
            own = import_module("copy").deepcopy(self.encoder)
            self._by_length[shape[2]] = self.torch.compile(own, dynamic=False)

    def ways(self, shape: tuple[int, int, int]) -> dict[str, Encode]:
        """Encode windows one by one: a batch would be compiled once more."""
        return {"": self.encode} if shape[0] == 1 else {"one by one": self._one_by_one}

    def encode(self, mel: Array) -> Array:
        """See `Peer.encode`."""
        with self.torch.inference_mode():
            return self._states(self._by_length[mel.shape[2]], mel)


class OnnxRuntime(Peer):
    """ONNX Runtime's CPU provider, all graph optimisations."""

    package, label, precision = "onnxruntime", "ONNX Runtime", "fp32"

    def __init__(self, files: Files, threads: int) -> None:
        super().__init__(files, threads)
        ort: Any = import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Pools spin while a request runs, and sleep between requests.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = ort.InferenceSession(
            str(files.onnx / f"encoder.{self.precision}.onnx"),
            options,
            providers=["CPUExecutionProvider"],
        )

    def encode(self, mel: Array) -> Array:
        """See `Peer.encode`."""
        states: Array = self._session.run(None, {"mel": mel})[0]
        return states


class OnnxRuntimeInt8(OnnxRuntime):
    """Dynamic quantisation by onnxruntime.quantization."""

    precision = "int8"


class CTranslate2(Peer):
    """CTranslate2's Whisper, encoder only."""

    package, label, precision = "ctranslate2", "CTranslate2", "fp32"
    compute_type: ClassVar[str] = "float32"

    def __init__(self, files: Files, threads: int) -> None:
        super().__init__(files, threads)
        self._library: Any = import_module("ctranslate2")
        self._model = self._library.models.Whisper(
            str(files.ctranslate2),
            compute_type=self.compute_type,
            intra_threads=threads,
            inter_threads=1,
        )

    def encode(self, mel: Array) -> Array:
        """See `Peer.encode`."""
        view = self._library.StorageView.from_array(np.ascontiguousarray(mel))
        return np.array(self._model.encode(view), dtype=np.float32)


class CTranslate2Int8(CTranslate2):
    """Weights and activations quantised at load."""

    precision, compute_type = "int8", "int8"


class OpenVino(Peer):
    """OpenVINO's CPU plugin, fixed shapes, latency hint."""

    package, label, precision = "openvino", "OpenVINO", "fp32"
    hint: ClassVar[str] = "f32"

    def __init__(self, files: Files, threads: int) -> None:
        super().__init__(files, threads)
        self._core: Any = import_module("openvino").Core()
        self._requests: dict[int, Any] = {}

    def prepare(self, shape: tuple[int, int, int]) -> None:
        """Compile for one window, and for the batch if there is one."""
        self._requests.clear()
        for batch in {1, shape[0]}:
            model = self._core.read_model(self.files.onnx / "encoder.fp32.onnx")
            model.reshape([batch, *shape[1:]])
            options = {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": str(self.threads),
                "INFERENCE_PRECISION_HINT": self.hint,
                # Copies that run side by side must not be pinned to the same core.
                "ENABLE_CPU_PINNING": "NO",
            }
            compiled = self._core.compile_model(model, "CPU", options)
            self._requests[batch] = compiled.create_infer_request()

    def encode(self, mel: Array) -> Array:
        """See `Peer.encode`."""
        states: Array = self._requests[len(mel)].infer([mel], share_inputs=True)[0]
        return states


class OpenVinoBf16(OpenVino):
    """The same graph with the inference precision hint bf16."""

    precision, hint = "bf16", "bf16"


class Native(Peer):
    """This project's own encoder."""

    package, label, precision = "asa-engine", "asa_engine", "fp32"
    foreign = False

    def __init__(self, files: Files, threads: int) -> None:
        super().__init__(files, threads)
        try:
            encoder = import_module("asa_engine.graders.acoustic.backends.native").WhisperEncoder
            self._encoder: Any = encoder.load(
                files.hugging_face, precision=self._precisions(files), threads=threads
            )
        except (ImportError, AttributeError) as failure:
            raise NotHere(f"the native encoder is not built: {failure}") from None

    def _precisions(self, files: Files) -> str | list[str]:
        """Return the precision of all layers, or of each."""
        return self.precision

    def encode(self, mel: Array) -> Array:
        """See `Peer.encode`."""
        return np.stack([self._encoder.encode(window) for window in mel])


class NativeBf16(Native):
    """bf16 products, fp32 sums."""

    precision = "bf16"


class NativeInt8(Native):
    """int8 products with rows and channels scaled, int32 sums."""

    precision = "int8"


class NativeInt8Throughout(NativeInt8):
    """The first layer too, which `int8` spares: faster, less exact."""

    def _precisions(self, files: Files) -> str | list[str]:
        config = json.loads((files.hugging_face / "config.json").read_text(encoding="utf-8"))
        return ["int8"] * int(config["encoder_layers"])


PEERS: dict[str, type[Peer]] = {
    REFERENCE: Torch,
    "torch/bf16": TorchBf16,
    "torch.compile/fp32": TorchCompile,
    "onnxruntime/fp32": OnnxRuntime,
    "onnxruntime/int8": OnnxRuntimeInt8,
    "ctranslate2/fp32": CTranslate2,
    "ctranslate2/int8": CTranslate2Int8,
    "openvino/fp32": OpenVino,
    "openvino/bf16": OpenVinoBf16,
    "native/fp32": Native,
    "native/bf16": NativeBf16,
    "native/int8": NativeInt8,
    "native/int8-all": NativeInt8Throughout,
}


def hugging_face_encoder(folder: Path) -> Any:
    """Build transformers' WhisperEncoder with the folder's weights, fp32, for inference."""
    whisper: Any = import_module("transformers.models.whisper.modeling_whisper")
    config: Any = import_module("transformers").WhisperConfig(
        **json.loads((folder / "config.json").read_text(encoding="utf-8"))
    )
    config._attn_implementation = "sdpa"
    state = import_module("safetensors.torch").load_file(folder / "model.safetensors")
    encoder = whisper.WhisperEncoder(config).eval()
    encoder.load_state_dict({k.removeprefix("model.encoder."): v for k, v in state.items()})
    return encoder
