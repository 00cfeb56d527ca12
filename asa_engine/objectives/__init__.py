"""Training objectives, as functions of tensors.

Each takes predictions first and targets second and returns a scalar, the mean over the batch.
"""

from asa_engine.objectives.acoustic import (
    concordance_loss,
    multi_target_mse,
    phone_ctc,
    prior_cross_entropy,
    soft_bins,
)
from asa_engine.objectives.classification import (
    balanced_logit_variation,
    cross_entropy,
    focal_loss,
    variation_scales,
)
from asa_engine.objectives.preference import (
    bounded_dpo,
    response_log_probability,
    supervised_fine_tuning,
)
from asa_engine.objectives.speech_llm import (
    expected_score,
    fair_average,
    label_cross_entropy,
    soft_label_cross_entropy,
)

__all__ = [
    "balanced_logit_variation",
    "bounded_dpo",
    "concordance_loss",
    "cross_entropy",
    "expected_score",
    "fair_average",
    "focal_loss",
    "label_cross_entropy",
    "multi_target_mse",
    "phone_ctc",
    "prior_cross_entropy",
    "response_log_probability",
    "soft_bins",
    "soft_label_cross_entropy",
    "supervised_fine_tuning",
    "variation_scales",
]
