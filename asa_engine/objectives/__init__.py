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

__all__ = [
    "balanced_logit_variation",
    "concordance_loss",
    "cross_entropy",
    "focal_loss",
    "multi_target_mse",
    "phone_ctc",
    "prior_cross_entropy",
    "soft_bins",
    "variation_scales",
]
