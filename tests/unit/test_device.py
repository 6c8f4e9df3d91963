"""Which device computes, and how it is set up."""

import pytest
import torch
from neurotransfer.device import autocast, choose_device, place
from neurotransfer.errors import InputError


def test_the_cpu_computes_with_the_threads_asked_for():
    before = torch.get_num_threads()
    try:
        assert choose_device("cpu", 2).type == "cpu"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_auto_takes_a_gpu_where_there_is_one():
    assert choose_device("auto", 1).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match="finds no GPU; set auto or cpu"):
        choose_device("cuda", 1)


def test_the_cpu_computes_in_float32():
    convolution = place(torch.nn.Conv3d(1, 2, 3), torch.device("cpu"))
    with autocast(torch.device("cpu")):
        assert convolution(torch.ones(1, 1, 4, 4, 4)).dtype == torch.float32
