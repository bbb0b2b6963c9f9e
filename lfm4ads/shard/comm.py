"""Precision of the rows and gradients that ranks send one another."""

from dataclasses import dataclass
from typing import Literal

import torch
from torchrec.distributed.fbgemm_qcomm_codec import (
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)
from torchrec.distributed.types import QuantizedCommCodecs

from lfm4ads.core.errors import UserError

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class CommConfig:
    """Looked-up rows go forward, their gradients backward; dense gradients stay float32."""

    forward: Precision = "fp32"
    backward: Precision = "fp32"


def codecs_of(config: CommConfig, *, device: torch.device) -> dict[str, QuantizedCommCodecs] | None:
    """Return TorchRec's codecs by collective; None sends float32.

    Raises:
        UserError: bf16 without CUDA, for which TorchRec would send fp16 and say so in a log.
    """
    for name, precision in (("forward", config.forward), ("backward", config.backward)):
        if precision == "bf16" and device.type == "cpu":
            raise UserError(
                f"shard.comm.{name} is bf16, which gloo cannot send; use fp16 on CPU",
                everywhere=True,
            )
    words = QCommsConfig(
        forward_precision=CommType(config.forward), backward_precision=CommType(config.backward)
    )
    return get_qcomm_codecs_registry(words, device=device)
