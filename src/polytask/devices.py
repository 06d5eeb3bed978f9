"""Where a training runs: CPU, CUDA or MPS by the same code, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from polytask.errors import UserError

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Place:
    """A device with a precision.

    >>> Place.find("cpu").autocast_dtype is None
    True
    """

    device: torch.device
    autocast_dtype: torch.dtype | None = None

    @classmethod
    def find(cls, device: str = "auto", precision: str = "auto") -> Place:
        """The named device, or the accelerator when there is one.

        precision "auto" is bf16 on a CUDA device that has it and float32 elsewhere.

        Raises:
            UserError: an unknown or absent device, an unknown precision.
        """
        if device == "auto":
            found = torch.accelerator.current_accelerator(check_available=True)
            place = found if found is not None else torch.device("cpu")
        else:
            try:
                place = torch.device(device)
                torch.empty(0, device=place)
            except (RuntimeError, AssertionError) as error:
                raise UserError(f"device '{device}' is not available here: {str(error).splitlines()[0]}") from error
        if precision == "auto":
            has_bf16 = place.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            return cls(place, torch.bfloat16 if has_bf16 else None)
        if precision not in PRECISIONS:
            raise UserError(f"precision must be one of auto, {', '.join(PRECISIONS)}, got '{precision}'")
        return cls(place, PRECISIONS[precision])

    def autocast(self) -> AbstractContextManager[object]:
        """The context for forward passes."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def scaler(self) -> torch.amp.GradScaler | None:
        """A GradScaler for fp16, None otherwise."""
        return torch.amp.GradScaler(self.device.type) if self.autocast_dtype == torch.float16 else None
