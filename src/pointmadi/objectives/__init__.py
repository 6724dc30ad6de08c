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
    "suited",
]

ObjectiveConfig = PointMaDiConfig | PointMAEConfig | PCPMAEConfig
Objective = PointMaDi | PointMAE | PCPMAE

OBJECTIVES: dict[str, ObjectiveConfig] = {
    "point-madi": PointMaDiConfig(),
    "point-mae": PointMAEConfig(),
    "pcp-mae": PCPMAEConfig(),
}


def suited(encoder: EncoderConfig, config: ObjectiveConfig) -> EncoderConfig:
    """Give an encoder the positions that an objective trains it with, as published."""
    return replace(encoder, positions="sincos" if isinstance(config, PCPMAEConfig) else "mlp")


def build(encoder: EncoderConfig, config: ObjectiveConfig) -> Objective:
    """Build the objective that `config` belongs to, around an encoder whose positions suit it."""
    match config:
        case PointMaDiConfig():
            return PointMaDi(suited(encoder, config), config)
        case PointMAEConfig():
            return PointMAE(suited(encoder, config), config)
        case PCPMAEConfig():
            return PCPMAE(suited(encoder, config), config)
