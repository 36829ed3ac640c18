from __future__ import annotations

import pytest
import torch

from frostline.training.chance import drawn_from, seed_of, seeded

CPU = torch.device("cpu")


def test_a_seed_depends_on_all_parts_and_on_nothing_else():
    assert seed_of(1, "head", 2) == seed_of(1, "head", 2)
    assert len({seed_of(1, "head", 2), seed_of(2, "head", 2), seed_of(1, "stem", 2), seed_of(1, "head", 3)}) == 4


def test_it_draws_what_a_seeded_generator_draws():
    states = seeded(7, CPU)
    with drawn_from(states, CPU):
        drawn = [torch.rand(3), torch.randn(5), torch.randperm(9)]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = [torch.rand(3), torch.randn(5), torch.randperm(9)]
    assert all(torch.equal(*pair) for pair in zip(drawn, expected, strict=True))


def test_it_goes_on_where_it_stopped_and_disturbs_nobody():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = [torch.randn(3) for _ in range(4)]  # randn keeps half a pair for the next call
        torch.manual_seed(1)
        others = torch.rand(8)
        torch.manual_seed(1)
        states, drawn, between = seeded(7, CPU), [], []
        for _ in range(4):
            with drawn_from(states, CPU):
                drawn.append(torch.randn(3))
            states = [state.clone() for state in states]
            between.append(torch.rand(2))
        assert torch.equal(torch.cat(drawn), torch.cat(expected))
        assert torch.equal(torch.cat(between), others)


def test_an_error_inside_leaves_the_others_numbers_as_they_were():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        expected = torch.rand(2)
        torch.manual_seed(1)
        with pytest.raises(RuntimeError), drawn_from(seeded(7, CPU), CPU):
            torch.rand(3).view(2)
        assert torch.equal(torch.rand(2), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_seed_decides_on_a_gpu_too_and_its_random_state_comes_back():
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state()
    drawn = []
    for _ in range(2):
        with drawn_from(seeded(7, device), device):
            drawn.append(torch.rand(5, device=device))
    assert torch.equal(*drawn)
    assert torch.equal(before, torch.cuda.get_rng_state())
