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

__all__ = [
    "concordance_loss",
    "multi_target_mse",
    "phone_ctc",
    "prior_cross_entropy",
    "soft_bins",
]
