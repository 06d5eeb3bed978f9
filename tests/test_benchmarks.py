"""What the benchmarks count and show: flops against PyTorch's own counter, and tables that are those of the records."""

import pytest
import torch
from benchmarks import clock, floor, precision, tables
from benchmarks.cases import plain
from benchmarks.workloads import WORKLOADS, Stand, mlp
from torch.utils.flop_counter import FlopCounterMode

ATTENTION = {
    "transformer_t4": 4 * (4 + 10) * 32 * 64**2 * 128
}  # layers x (forward + backward) B L^2 d: not in the counter
MFLOP = {  # plain, exact, with the Gramian for nothing
    "mlp_t2": (219, 363, 286),
    "mlp_t10": (222, 1538, 826),
    "mlp_t40": (234, 6279, 2851),
    "mlp_t10_h1024": (826, 3545, 3242),
    "recsys_t3": (152, 356, 253),
    "conv_t3": (12935, 25244, 18975),
    "transformer_t4": (7396, 22316, 15852),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_counted_flops(name):
    workload = WORKLOADS[name]()
    counted = floor.count(workload)
    stand = Stand(workload)
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(stand.losses(stand.draw()).values())).sum().backward()
    unseen = ATTENTION.get(name, 0) * (counter.get_total_flops() < counted.plain)
    assert counted.plain == counter.get_total_flops() + unseen
    assert tuple(round(n / 1e6) for n in (counted.plain, counted.exact, counted.pull_back)) == MFLOP[name]


def test_a_case_that_raises_is_a_result():
    def broken():
        raise ValueError("no such thing")

    step = plain(mlp("small", 2, width=8, rows=4))
    seen = clock.measure(step, {"same": step, "broken": broken}, 2, block=0.01)
    assert seen.cases["broken"]["error"].startswith("ValueError: no such thing (test_benchmarks.py:")
    assert seen.cases["same"]["rounds"] == 2
    assert 0.2 < seen.cases["same"]["median"] < 5


def test_the_page_shows_the_records():
    text = tables.PAGE.read_text()
    assert text == tables.page(text, tables.load()), "run: python -m benchmarks.step --tables"


@pytest.mark.slow
def test_the_gramian_of_ten_million_parameters():
    """Six digits of float64, where one float32 product has three."""
    found = precision.errors(10, 10**7)
    assert found["ours"] <= 1e-6
    assert found["one_product"] > 1e-4
