"""A grader on the GPU: which kernel runs after which, on buffers made once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asa_engine.errors import BackendError
from asa_engine.gpu.device import Limits, Outputs, Ragged, Read
from asa_engine.gpu.triton.attention import attention
from asa_engine.gpu.triton.buffers import (
    MEL_TILE,
    Bucket,
    buffer_shapes,
    conv_tiles,
    table_sizes,
    tables_of,
)
from asa_engine.gpu.triton.conv import conv
from asa_engine.gpu.triton.head import pool_and_head
from asa_engine.gpu.triton.linear import linear
from asa_engine.gpu.triton.log_mel import floor_mel, spectrum
from asa_engine.gpu.triton.pooling import moments
from asa_engine.gpu.triton.tiles import (
    attention_tile,
    head_tile,
    power_of_two,
    product_tile,
)
from asa_engine.gpu.triton.weights import DTYPES, Product, Weights
from asa_engine.nn.acoustic_tensors import HEAD_NAMES, REGRESSOR_NAMES, GraderShape

__all__ = ["TritonModel"]

GROUP = 8
TOPS_BLOCK = 32
MOMENTS_TILE = {"BM": 16, "BN": 64}
LEAST_FRAMES = 64
STAGED = ("tables", "samples", "mel", "sums", "stats", "scores", "prior")


class TritonModel:
    """See `asa_engine.gpu.device.Model`.

    Args:
        shape: The grader.
        read: Its weights.
        precision: "fp32", "bf16" or "fp16".
        limits: The largest batch.
        device: A torch device; "cpu" only under Triton's interpreter.
    """

    def __init__(
        self, shape: GraderShape, read: Read, precision: str, limits: Limits, device: str
    ) -> None:
        self._shape = shape
        self._precision = precision
        self._limits = limits
        self._on_gpu = device != "cpu"
        self._weights = Weights(shape, read, DTYPES[precision], device)
        self._buffers = {
            name: torch.zeros(size, dtype=dtype, device=device)
            for name, (size, dtype) in buffer_shapes(shape, precision, limits).items()
        }
        # A batch ends with a wait, so that one of each is enough.
        self._staged = {
            name: torch.empty_like(self._buffers[name], device="cpu", pin_memory=True)
            for name in STAGED
            if self._on_gpu
        }
        self._head_tile = head_tile(shape)
        self._graphs: dict[Bucket, torch.cuda.CUDAGraph] = {}

    def encode(
        self, batch: Ragged, sums: NDArray[np.float64] | None = None, *, frames: bool = False
    ) -> Outputs:
        """See `asa_engine.gpu.device.Model.encode`."""
        lengths = batch.frames
        self._check(batch, lengths)
        bucket = self._bucket(len(lengths), sum(lengths), batch.values.ndim == 1, frames)
        buffers, windows = self._buffers, len(lengths)
        self._up("tables", tables_of(self._shape, self._precision, batch, bucket))
        self._up("samples" if bucket.samples else "mel", batch.values)
        if sums is None:
            buffers["sums"].zero_()
        else:
            self._up("sums", sums)
        self._launch(bucket)
        stats, scores, prior = self._down(windows, "stats", "scores", "prior")
        kept = None
        if frames:
            ends = np.cumsum(lengths)
            mixed = buffers["mixed"][: ends[-1]].cpu().numpy().copy()
            kept = np.split(mixed, ends[:-1])
        return Outputs(stats, scores, prior, kept)

    def head(self, stats: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `asa_engine.gpu.device.Model.head`."""
        parts = []
        for first in range(0, len(stats), self._limits.windows):
            some = stats[first : first + self._limits.windows]
            self._up("stats", some)
            self._pool_and_head(len(some), {}, 0, pooled=False, keep=False)
            parts.append(self._down(len(some), "scores", "prior"))
        scores, prior = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(prior)

    def close(self) -> None:
        """See `asa_engine.gpu.device.Model.close`."""
        self._graphs.clear()
        self._buffers.clear()
        self._staged.clear()
        del self._weights
        if self._on_gpu:
            torch.cuda.empty_cache()

    def _up(self, name: str, values: NDArray[Any]) -> None:
        """Copy values to the front of a buffer, on a GPU through page-locked memory."""
        source = torch.from_numpy(np.require(values, requirements=["C", "W"]))
        if self._on_gpu:
            staged = self._staged[name][: len(values)]
            source = staged.copy_(source)
        self._buffers[name][: len(values)].copy_(source, non_blocking=True)

    def _down(self, rows: int, *names: str) -> list[NDArray[np.float32]]:
        """Return the first rows of buffers, once all that was launched is done."""
        arrays = [self._buffers[name][:rows] for name in names]
        if self._on_gpu:
            arrays = [
                self._staged[name][:rows].copy_(values, non_blocking=True)
                for name, values in zip(names, arrays, strict=True)
            ]
            torch.cuda.current_stream().synchronize()
        return [values.numpy().copy() for values in arrays]

    def _check(self, batch: Ragged, lengths: list[int]) -> None:
        most = self._shape.encoder.positions
        if len(lengths) > self._limits.windows or sum(lengths) > self._limits.frames:
            raise BackendError(f"a batch of {len(lengths)} windows is larger than {self._limits}")
        if not all(1 <= length <= most for length in lengths):
            raise BackendError(f"a window must have 1 to {most} frames, not {lengths}")
        if batch.values.ndim == 1 and int(np.diff(batch.starts).min()) <= 200:
            raise BackendError("a window of samples must have more than 200")

    def _bucket(self, windows: int, frames: int, samples: bool, keep: bool) -> Bucket:
        """Round sizes up to powers of two, so that a few graphs serve every batch."""
        return Bucket(
            min(power_of_two(windows), self._limits.windows),
            min(power_of_two(frames, LEAST_FRAMES), self._limits.frames),
            samples,
            keep,
        )

    def _launch(self, bucket: Bucket) -> None:
        """Run the kernels of a bucket, from a captured graph where there is a GPU."""
        if not self._on_gpu:
            self._forward(bucket)
            return
        if bucket not in self._graphs:
            self._forward(bucket)  # compiles what is not compiled yet, which capture forbids
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads of this process may use the GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._forward(bucket)
            self._graphs[bucket] = graph
        self._graphs[bucket].replay()

    def _forward(self, bucket: Bucket) -> None:
        shape, weights, buffers = self._shape, self._weights, self._buffers
        sizes = table_sizes(shape, self._precision, bucket)
        ends = np.cumsum(list(sizes.values())).tolist()
        tables = {
            name: buffers["tables"][end - size : end]
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }
        if bucket.samples:
            self._log_mel(tables)
        x, low, mixed = buffers["x"], buffers["low"], buffers["mixed"]
        self._stem(bucket, tables)
        self._moments(bucket, tables, layer=0)
        for i, layer in enumerate(weights.layers):
            self._linear(bucket, tables, low, layer.qkv, buffers["qkv"], norm=True)
            self._attend(tables)
            self._linear(bucket, tables, buffers["attended"], layer.out, x, residual=True)
            self._linear(bucket, tables, low, layer.fc1, buffers["inner"], norm=True, gelu=True)
            last = i + 1 == len(weights.layers)
            self._linear(
                bucket,
                tables,
                buffers["inner"],
                layer.fc2,
                x,
                residual=True,
                mixed=None if last else mixed,
                mix=weights.mix[i + 1],
            )
            self._moments(bucket, tables, layer=i + 1, last=last)
        self._pool_and_head(bucket.windows, tables, bucket.frames, pooled=True, keep=bucket.keep)

    def _log_mel(self, tables: dict[str, Tensor]) -> None:
        buffers, weights = self._buffers, self._weights
        bins, bank = self._shape.encoder.n_mels, weights.filters.shape[1]
        grid = (len(tables["mel_tiles"]) // 2,)
        spectrum[grid](
            buffers["samples"], weights.waves, weights.filters, buffers["mel"], buffers["tops"],
            tables["mel_tiles"], tables["sample_starts"], tables["mel_starts"],
            BINS=bins, BB=bank, **MEL_TILE, num_warps=4,
        )  # fmt: skip
        floor_mel[grid](
            buffers["mel"], buffers["tops"], tables["mel_tiles"], tables["mel_tile_starts"],
            tables["mel_starts"], BINS=bins, BB=bank, BM=MEL_TILE["BM"], BT=TOPS_BLOCK, num_warps=4,
        )  # fmt: skip

    def _stem(self, bucket: Bucket, tables: dict[str, Tensor]) -> None:
        buffers, weights, config = self._buffers, self._weights, self._shape.encoder
        width = config.d_model
        steps = (
            ("conv1", buffers["mel"], weights.conv1, buffers["stem"], config.n_mels, "mel_starts"),
            ("conv2", buffers["stem"], weights.conv2, buffers["x"], width, "starts"),
        )
        for tile, (name, a, product, out, channels, starts_out) in zip(
            conv_tiles(self._shape, self._precision), steps, strict=True
        ):
            table = tables[f"{name}_tiles"]
            embed = name == "conv2"
            conv[(len(table) // 2, math.ceil(width / tile.columns))](
                a, product.weight, product.bias, weights.positions, out,
                buffers["low"], buffers["row_sums"], buffers["mixed"],
                table, tables["mel_starts"], tables[starts_out], weights.mix[0], bucket.frames,
                N=width, C=channels, STRIDE=2 if embed else 1, EMBED=embed,
                BM=tile.rows, BN=tile.columns, BK=tile.depth,
                num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip

    def _linear(
        self,
        bucket: Bucket,
        tables: dict[str, Tensor],
        a: Tensor,
        product: Product,
        out: Tensor,
        *,
        norm: bool = False,
        gelu: bool = False,
        residual: bool = False,
        mixed: Tensor | None = None,
        mix: float = 0.0,
    ) -> None:
        buffers = self._buffers
        columns, depth = product.weight.shape
        tile = product_tile(columns, depth, self._precision)
        grid = (math.ceil(bucket.frames / tile.rows) * math.ceil(columns / tile.columns),)
        linear[grid](
            a, product.weight, product.bias, product.sums, out, buffers["low"],
            buffers["row_sums"], buffers["mixed"], tables["counts"], mix, bucket.frames,
            N=columns, K=depth, NORM_PARTS=len(buffers["row_sums"]) if norm else 0, GELU=gelu,
            RESIDUAL=residual, MIX=mixed is not None,
            BM=tile.rows, BN=tile.columns, BK=tile.depth, GROUP=GROUP,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip

    def _attend(self, tables: dict[str, Tensor]) -> None:
        config = self._shape.encoder
        width = config.d_model // config.heads
        tile = attention_tile(width, self._precision)
        table = tables["attention_tiles"]
        attention[(len(table) // 2, config.heads)](
            self._buffers["qkv"], self._buffers["attended"], table, tables["starts"],
            math.log2(math.e) / math.sqrt(width), D=config.d_model, WIDTH=width,
            BM=tile.rows, BN=tile.columns, BW=tile.depth,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip

    def _moments(
        self, bucket: Bucket, tables: dict[str, Tensor], *, layer: int, last: bool = False
    ) -> None:
        if not self._shape.centres:
            return
        buffers, shape = self._buffers, self._shape
        width = shape.encoder.d_model
        moments[(bucket.windows, math.ceil(width / MOMENTS_TILE["BN"]))](
            buffers["x"], buffers["row_sums"], *self._weights.norm, buffers["stats"],
            tables["starts"], bucket.frames, layer, D=width, LAYERS=shape.encoder.layers + 1,
            BASE=shape.stats_width - shape.moments_width, K=shape.stats_width,
            NORM_PARTS=len(buffers["row_sums"]) if last else 0, **MOMENTS_TILE, num_warps=4,
        )  # fmt: skip

    def _pool_and_head(
        self, windows: int, tables: dict[str, Tensor], frames: int, *, pooled: bool, keep: bool
    ) -> None:
        buffers, shape, weights = self._buffers, self._shape, self._weights
        head = weights.head
        # A grader without a regressor passes something in its place that is never read.
        regressor = [head.get(name, head["score_mean"]) for name in REGRESSOR_NAMES]
        pool_and_head[(windows,)](
            buffers["mixed"], buffers["x"], buffers["row_sums"], *weights.norm, weights.mix[-1],
            head["attention.weight"], head["attention.bias"],
            tables.get("starts", buffers["tables"]), frames,
            *(buffers[name] for name in ("stats", "sums", "total", "place", "scores", "prior")),
            *(head[name] for name in HEAD_NAMES), *regressor,
            POOL=pooled, KEEP=keep, PARTS=len(buffers["row_sums"]),
            D=shape.encoder.d_model, HEADS=shape.pooling_heads, PRIOR_WIDTH=shape.prior_width,
            LEVELS=shape.levels, EMBEDDING=shape.prior_embedding, WIDTH=shape.head_width,
            A=shape.aspects, M=shape.moments_width, R=shape.place, CENTRES=shape.centres,
            **self._head_tile, num_warps=8,
        )  # fmt: skip
