"""Places: a device and a precision."""

import pytest
import torch

from polytask import UserError
from polytask.devices import Place


def test_the_cpu():
    place = Place.find("cpu")
    assert (place.device.type, place.autocast_dtype) == ("cpu", None)
    assert place.scaler() is None
    with place.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision(precision, dtype):
    place = Place.find("cpu", precision)
    with place.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (place.scaler() is not None) == (dtype == torch.float16)


def test_auto_is_the_accelerator_or_the_cpu():
    found = torch.accelerator.current_accelerator(check_available=True)
    assert Place.find().device.type == (found.type if found else "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", ""])
def test_an_absent_device(device):
    with pytest.raises(UserError, match=f"device '{device}' is not available here: ."):
        Place.find(device)


def test_an_unknown_precision():
    with pytest.raises(UserError, match="one of auto, float32, bf16, fp16, got 'half'"):
        Place.find("cpu", "half")
