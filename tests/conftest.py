"""One thread and one seed for every test, so that numbers do not depend on the machine or the order of the tests."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
