"""Pre-training objectives: a batch in, a dict of losses out."""

from dataclasses import replace

from pointmadi.models.encoder import EncoderConfig
from pointmadi.objectives.pcp_mae import PCPMAE, PCPMAEConfig
from pointmadi.objectives.point_madi import PointMaDi, PointMaDiConfig
from pointmadi.objectives.point_mae import PointMAE, PointMAEConfig

__all__ = [
    "OBJECTIVES",
    "PCPMAE",
    "Objective",
    "ObjectiveConfig",
    "PCPMAEConfig",
    "PointMAE",
    "PointMAEConfig",
    "PointMaDi",
    "PointMaDiConfig",
    "build",
]

ObjectiveConfig = PointMaDiConfig | PointMAEConfig | PCPMAEConfig
Objective = PointMaDi | PointMAE | PCPMAE

OBJECTIVES: dict[str, ObjectiveConfig] = {
    "point-madi": PointMaDiConfig(),
    "point-mae": PointMAEConfig(),
    "pcp-mae": PCPMAEConfig(),
}


def build(encoder: EncoderConfig, config: ObjectiveConfig) -> Objective:
    """Build the objective that `config` belongs to, around an encoder whose positions suit it."""
    match config:
        case PointMaDiConfig():
            return PointMaDi(replace(encoder, positions="mlp"), config)
        case PointMAEConfig():
            return PointMAE(replace(encoder, positions="mlp"), config)
        case PCPMAEConfig():
            return PCPMAE(replace(encoder, positions="sincos"), config)
