"""Training recipes: TOML files, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from asa_engine.errors import CheckpointError, UsageError
from asa_engine.graders.acoustic.config import AcousticConfig
from asa_engine.recipes import build, find_data, read_recipe, section, value

__all__ = [
    "AugmentRecipe",
    "DataRecipe",
    "EncoderRecipe",
    "KernelRecipe",
    "PhaseRecipe",
    "Recipe",
    "find_recipe",
]

RECIPES = Path(__file__).parent / "recipes"
_TOP_LEVEL = (
    "name",
    "grader",
    "seed",
    "threads",
    "data",
    "encoder",
    "augment",
    "phase",
    "kernel",
)


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """What is trained on.

    Attributes:
        manifest: JSON Lines file; a relative path is looked for beside the recipe, in the working
            folder, in the folder that ASA_SHARED names, and in ../shared.
        targets: `raters` trains on the mean of the experts' own scores, `medians` on `scores`;
            the dev figures always compare with `scores`.
        limit: Take so many utterances of train and dev each (0: all); for trials.
    """

    manifest: str
    targets: str = "raters"
    limit: int = 0


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """Where the encoder's weights come from.

    Attributes:
        source: Folder, or `package:NAME` of an installed Python package; "random" starts from
            random weights of the shape the grader section gives.
    """

    source: str


@dataclass(frozen=True, slots=True)
class AugmentRecipe:
    """Changes made to the training audio, drawn anew each time.

    Attributes:
        speed: Largest relative change of speed (and pitch).
        gain_db: Largest change of gain.
        noise: Share of utterances with added noise, white or low-passed, at 10 to 40 dB SNR.
        low_pass: Share of utterances low-passed at 3 to 7 kHz.
        shift: Share of utterances whose start moves against the windows by up to 0.3 s.
        tilt: Standard deviation of a smooth random equaliser on half the windows, log-mel units.
        mel_mask: Widest band of mel bins masked, twice a window (SpecAugment).
    """

    speed: float = 0.0
    gain_db: float = 0.0
    noise: float = 0.0
    low_pass: float = 0.0
    shift: float = 0.0
    tilt: float = 0.0
    mel_mask: int = 0


@dataclass(frozen=True, slots=True)
class PhaseRecipe:
    """One stretch of training; each begins with the best weights of the one before.

    Attributes:
        name: Shown in progress and report.
        epochs: Passes over the training speakers.
        batch_size: Utterances a step.
        head_lr: Peak learning rate of everything but the encoder.
        encoder_lr: Peak learning rate of the encoder's last layer; 0 keeps the encoder frozen.
        frozen_layers: Layers kept frozen, from the convolutions (1) and the first layer (2) up;
            0 trains all of the encoder.
        layer_decay: Factor on the learning rate per layer below the last.
        warmup: Share of all steps with a rising learning rate; a cosine to 2 % follows.
        weight_decay: Of AdamW, on matrices only.
        dropout: In prior and head.
        encoder_dropout: On the encoder's residual branches.
        feature_noise: Standard deviation of noise on frozen frames.
        ema: Decay of the moving average of weights, which is what is evaluated and kept.
        ccc: Weight of the concordance loss, beside the squared error's 1.
        prior: Weight of the prior's cross-entropy.
        auxiliary: Weight of the squared error on auxiliary targets.
        ctc: Weight of the phone CTC.
        phones_only: Only the CTC's gradient reaches the encoder, which then cannot learn the few
            train speakers' scores by heart; prior and head follow.
        patience: Epochs without a better dev figure before the phase ends early.
        bf16: Compute the encoder in bfloat16 (weights, averages and heads stay float32).
    """

    name: str
    epochs: int
    batch_size: int = 16
    head_lr: float = 1e-3
    encoder_lr: float = 0.0
    frozen_layers: int = 0
    layer_decay: float = 0.8
    warmup: float = 0.08
    weight_decay: float = 0.02
    dropout: float = 0.0
    encoder_dropout: float = 0.0
    feature_noise: float = 0.0
    ema: float = 0.99
    ccc: float = 0.0
    prior: float = 0.2
    auxiliary: float = 0.0
    ctc: float = 0.0
    phones_only: bool = False
    patience: int = 1000
    bf16: bool = False


@dataclass(frozen=True, slots=True)
class KernelRecipe:
    """Kernel ridge regression fitted after the last phase, on the encoder as it is then.

    Attributes:
        blend: Weight of the network's scores; the kernel's have the rest.
        width: Principal directions kept.
        folds: Speaker-disjoint folds of the train side for the choice of the rest.
        gammas: Candidates for the kernel's inverse squared width.
        ridges: Candidates for the ridge.
        durations: Candidates for the weight of the log duration.
    """

    blend: float
    width: int = 256
    folds: int = 5
    gammas: tuple[float, ...] = (0.6,)
    ridges: tuple[float, ...] = (0.2,)
    durations: tuple[float, ...] = (0.3,)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training run.

    Attributes:
        name: Of the recipe.
        seed: Every random draw is a function of it and of the step.
        data: What is trained on.
        encoder: Where the encoder comes from.
        grader: The grader's configuration; its encoder shape is taken from the source's weights.
        augment: Changes made to the training audio while the encoder is trained.
        phases: In order.
        kernel: What is fitted after them; None: nothing.
        threads: PyTorch threads; the result depends on it in the last bits.
        digest: SHA-256 of the file; a run is resumed only under the same one.
        folder: Where the recipe lies.
    """

    name: str
    seed: int
    data: DataRecipe
    encoder: EncoderRecipe
    grader: AcousticConfig
    augment: AugmentRecipe
    phases: tuple[PhaseRecipe, ...]
    kernel: KernelRecipe | None
    threads: int
    digest: str
    folder: Path = field(repr=False)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and validate a recipe.

        Raises:
            UsageError: It is missing, is not TOML, or a value is missing, unknown, of the wrong
                kind or out of range; the message names the file and the field.
        """
        path = find_recipe(path)
        table, digest = read_recipe(path, _TOP_LEVEL)
        where = str(path)
        phases = table.get("phase")
        if not isinstance(phases, list) or not phases:
            raise UsageError(f"{path}: there is no [[phase]]", mend="add at least one")
        grader = {"grader": "acoustic", "format_revision": 1, **section(table, "grader", where)}
        try:
            config = AcousticConfig.from_dict(grader)
        except CheckpointError as error:
            raise UsageError(f"{where} [grader]: {error.message}", mend="mend the recipe") from None
        recipe = cls(
            name=path.stem,
            seed=value(table.get("seed", 0), 0, f"{where}: seed"),
            data=build(DataRecipe, section(table, "data", where), f"{where} [data]"),
            encoder=build(EncoderRecipe, section(table, "encoder", where), f"{where} [encoder]"),
            grader=config,
            augment=build(AugmentRecipe, table.get("augment", {}), f"{where} [augment]"),
            phases=tuple(
                build(PhaseRecipe, item, f"{where} [[phase]] {i + 1}")
                for i, item in enumerate(phases)
            ),
            kernel=(
                build(KernelRecipe, table["kernel"], f"{where} [kernel]")
                if "kernel" in table
                else None
            ),
            threads=value(table.get("threads", 2), 0, f"{where}: threads"),
            digest=digest,
            folder=path.resolve().parent,
        )
        recipe._check(where)
        return recipe

    def manifest_path(self) -> Path:
        """Return where the manifest lies.

        Raises:
            UsageError: It is in none of the places looked at.
        """
        return find_data(self.data.manifest, self.folder)

    def _check(self, where: str) -> None:
        if self.data.targets not in ("raters", "medians"):
            raise UsageError(f"{where} [data]: targets is {self.data.targets!r}, not a known kind")
        for phase in self.phases:
            for name in ("epochs", "batch_size", "patience"):
                if getattr(phase, name) < (2 if name == "batch_size" else 1):
                    raise UsageError(f"{where} [[phase]] {phase.name}: {name} is too small")
            for name in ("dropout", "encoder_dropout", "ema", "warmup"):
                if not 0 <= getattr(phase, name) < 1:
                    raise UsageError(f"{where} [[phase]] {phase.name}: {name} must be in [0, 1)")
        if self.grader.kernel_centres:
            raise UsageError(f"{where} [grader]: kernel_centres is set by [kernel]")
        if (kernel := self.kernel) is not None:
            if not 0 <= kernel.blend <= 1:
                raise UsageError(f"{where} [kernel]: blend must be in [0, 1]")
            if kernel.folds < 2 or kernel.width < 1:
                raise UsageError(f"{where} [kernel]: folds or width is too small")
            if not (kernel.gammas and kernel.ridges and kernel.durations):
                raise UsageError(f"{where} [kernel]: a list of candidates is empty")
        if not 1 <= self.threads <= 1024:
            raise UsageError(f"{where}: threads must be 1 to 1024")


def find_recipe(path: str | Path) -> Path:
    """Return the recipe's path; a name that is no file is looked for among the shipped ones."""
    path = Path(path)
    shipped = RECIPES / path.with_suffix(".toml").name
    return shipped if not path.exists() and shipped.is_file() else path
