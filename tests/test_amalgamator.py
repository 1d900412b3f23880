"""Amalgamation and its regularisers against slow references from Eq. 3 to 5."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gate_cache.learn.features.bucket import Bucket
from gate_cache.learn.mixing.amalgamator import (
    Amalgamator,
    FixedWeights,
    build_model,
    by_map,
    diversity,
    mix,
    sparsity,
)
from gate_cache.learn.mixing.vectors import VectorAmalgamator
from gate_cache.manifest.train_spec import TrainSpec

COUNTS = pytest.mark.parametrize("assigners", [1, 2, 3])
Regulariser = Callable[[torch.Tensor], torch.Tensor]


def bucket(batch: int = 2, maps: int = 4, channels: int = 3, side: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, maps, channels, side, side + 1, generator=generator)


def random_weights(batch: int, assigners: int, maps: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(assigners)
    logits = torch.randn(batch, assigners, maps, generator=generator, dtype=torch.float64)
    return logits.softmax(-1)


def module(assigners: int, channels: int = 3, dropout: float = 0.0) -> Amalgamator:
    torch.manual_seed(3)
    return Amalgamator(channels, assigners, hidden=6, dropout=dropout)


@COUNTS
def test_weights_of_each_assigner_sum_to_one_over_the_bucket(assigners: int) -> None:
    weights = module(assigners)(bucket()).weights
    assert weights.shape == (2, assigners, 4)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, assigners))


def test_assigners_are_independent() -> None:
    weights = module(2)(bucket()).weights
    assert not torch.allclose(weights[:, 0], weights[:, 1])


def test_weights_follow_the_maps_when_the_bucket_is_reordered() -> None:
    model, maps, order = module(2).eval(), bucket(), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(maps[:, order]).weights, model(maps).weights[:, :, order])


@COUNTS
def test_maps_equal_an_explicit_loop(assigners: int) -> None:
    maps = bucket()
    found = module(assigners)(maps)
    slow = torch.zeros(2, assigners, *maps.shape[2:])
    for image, j, i in itertools.product(range(2), range(assigners), range(maps.shape[1])):
        slow[image, j] += found.weights[image, j, i] * maps[image, i]
    torch.testing.assert_close(found.maps, slow)


def length(vector: list[float]) -> float:
    return math.sqrt(sum(x * x for x in vector))


@COUNTS
def test_sparsity_is_the_sum_of_norms(assigners: int) -> None:
    weights = random_weights(5, assigners)
    slow = [sum(length(w) for w in image) for image in weights.tolist()]
    assert sparsity(weights).item() == pytest.approx(sum(slow) / 5, abs=1e-9)


@COUNTS
def test_diversity_is_half_the_sum_over_ordered_pairs(assigners: int) -> None:
    weights = random_weights(5, assigners)
    slow = [0.5 * sum(length([a - b for a, b in zip(image[j], image[k], strict=True)])
                      for j in range(assigners) for k in range(assigners) if j != k)
            for image in weights.tolist()]
    assert diversity(weights).item() == pytest.approx(sum(slow) / 5, abs=1e-9)


def test_diversity_of_one_assigner_is_zero_and_differentiable() -> None:
    weights = random_weights(2, 1).requires_grad_()
    value = diversity(weights)
    value.backward()
    assert value.item() == 0
    assert weights.grad is not None
    assert weights.grad.abs().max() == 0


@pytest.mark.parametrize("regulariser", [sparsity, diversity])
def test_gradients_agree_with_finite_differences(regulariser: Regulariser) -> None:
    weights = random_weights(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(regulariser, (weights,))


def agreeing() -> torch.Tensor:
    return random_weights(2, 1).repeat(1, 3, 1).requires_grad_()


def test_gradient_of_sparsity_is_finite_where_assigners_agree() -> None:
    weights = agreeing()
    sparsity(weights).backward()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()
    assert weights.grad.abs().max() > 0


def test_gradient_of_diversity_is_zero_where_assigners_agree() -> None:
    weights = agreeing()
    diversity(weights).backward()
    assert weights.grad is not None
    assert torch.equal(weights.grad, torch.zeros_like(weights))


def test_gradient_reaches_every_assigner_where_all_agree() -> None:
    model, maps = module(2), bucket()
    model.assigners[1].load_state_dict(model.assigners[0].state_dict())
    found = model(maps)
    (found.maps.square().sum() - sparsity(found.weights) - diversity(found.weights)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def ascended(regulariser: Regulariser) -> torch.Tensor:
    """Weights of two assigners after minimising minus the regulariser."""
    logits = random_weights(3, 2).log().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        (-regulariser(logits.softmax(-1))).backward()
        optimiser.step()
    return logits.softmax(-1).detach()


def test_minimising_minus_sparsity_makes_weights_one_hot() -> None:
    assert (ascended(sparsity).max(-1).values > 0.99).all()


def test_minimising_minus_diversity_separates_assigners() -> None:
    weights = ascended(diversity)
    apart = (weights[:, 0] - weights[:, 1]).norm(dim=-1)
    assert (apart > 0.99 * math.sqrt(2)).all()


def test_a_single_feature_is_passed_on_untouched() -> None:
    maps = bucket()
    found = FixedWeights([0.0, 1.0, 0.0, 0.0])(maps)
    torch.testing.assert_close(found.maps, maps[:, 1:2])


def test_uniform_weights_are_the_mean() -> None:
    maps = bucket()
    found = FixedWeights([0.25] * 4)(maps)
    assert found.weights.shape == (2, 1, 4)
    torch.testing.assert_close(found.maps, maps.mean(1, keepdim=True))


def test_fixed_weights_are_no_parameters_and_are_not_saved() -> None:
    fixed = FixedWeights([0.5, 0.5])
    assert list(fixed.parameters()) == []
    assert fixed.state_dict() == {}


def test_mix_keeps_images_of_a_batch_apart() -> None:
    maps = bucket()
    weights = torch.zeros(2, 1, 4)
    weights[0, 0, 1] = weights[1, 0, 3] = 1
    torch.testing.assert_close(mix(maps, weights).maps[:, 0], torch.stack([maps[0, 1], maps[1, 3]]))


def test_weights_of_an_image_do_not_depend_on_its_batch_in_eval() -> None:
    model, maps = module(2).eval(), bucket()
    torch.testing.assert_close(model(maps).weights[:1], model(maps[:1]).weights)


def test_weights_of_an_image_depend_on_its_batch_in_training() -> None:
    model, maps = module(2).train(), bucket()
    assert not torch.allclose(model(maps).weights[:1], model(maps[:1]).weights)


def test_running_statistics_move_in_training_only() -> None:
    model = module(1)
    norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.running_mean is not None
    model.eval()(bucket())
    assert norm.running_mean.abs().max() == 0
    model.train()(bucket())
    assert norm.running_mean.abs().max() > 0


def test_dropout_acts_in_training_only() -> None:
    model, maps = module(1, dropout=0.5), bucket()
    assert not torch.equal(model.train()(maps).weights, model(maps).weights)
    assert torch.equal(model.eval()(maps).weights, model(maps).weights)


def test_assigners_see_averages_of_cells_where_a_resolution_is_asked_for() -> None:
    maps = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    small = Amalgamator(3, 2, hidden=6, dropout=0.0, resolution=4).eval()
    whole = module(2).eval()
    means = maps.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean((-1, -3))
    found = small(maps)
    torch.testing.assert_close(found.weights, whole.weigh(means))
    assert found.maps.shape == (2, 2, 3, 8, 8)
    torch.testing.assert_close(small.weigh(means), whole.weigh(means))
@pytest.mark.parametrize("where", ["head", "bucket"])
@pytest.mark.parametrize("head", ["nn", "conv"])
def test_attention_is_mixed_only_in_the_bucket(head: str, where: Any) -> None:
    """As the released code has it: every combo's map is its channels and attention's, raw."""
    spec = TrainSpec(head=head, attention_in=where, assigners=1)  # type: ignore[arg-type]
    model = build_model(spec, 6, None, [0, 2], 5).eval()
    conv, attention = torch.randn(2, 3, 6, 4, 4), torch.rand(2, 5, 4, 4)
    found = model(Bucket(conv, attention))
    inner = model.mixer.assigners[0].body[0].in_channels
    assert inner == (11 if where == "bucket" else 6)
    maps = conv[:, [0, 2]]
    if where == "bucket":
        maps = torch.cat([maps, attention[:, None].expand(-1, 2, -1, -1, -1)], 2)
    sums = model.mixer(maps).maps
    by_hand = model.head(sums, None if where == "bucket" else attention)
    torch.testing.assert_close(found.values, by_hand)
    if head == "nn" and where == "bucket":
        torch.testing.assert_close(sums[:, 0, 6:], attention)  # weights sum to 1
        torch.testing.assert_close(found.values, F.normalize(sums[:, 0], dim=1))
    alone = build_model(spec, 6, [1.0], [1], None)
    assert torch.equal(alone(Bucket(conv, attention)).values, alone(Bucket(conv, None)).values)


# -------------------------------------------------------------------------- weights of channels


def of_channels(assigners: int = 2) -> Amalgamator:
    torch.manual_seed(3)
    return Amalgamator(3, assigners, hidden=6, dropout=0.0, weights="channel")


@COUNTS
def test_weights_of_channels_sum_to_one_over_the_bucket(assigners: int) -> None:
    maps = bucket()
    found = of_channels(assigners)(maps)
    assert found.weights.shape == (2, assigners, 4, 3)
    torch.testing.assert_close(found.weights.sum(2), torch.ones(2, assigners, 3))
    slow = torch.zeros(2, assigners, *maps.shape[2:])
    for image, j, i, c in itertools.product(range(2), range(assigners), range(4), range(3)):
        slow[image, j, c] += found.weights[image, j, i, c] * maps[image, i, c]
    torch.testing.assert_close(found.maps, slow)


def test_weights_of_channels_are_those_of_the_released_assigner() -> None:
    """Convolution without bias, ReLU, batch norm, mean over places, linear to C; softmax over maps.
    """
    model, maps = of_channels(1).eval(), bucket()
    body = model.assigners[0].body
    logits = []
    for i in range(4):
        hidden = F.conv2d(maps[:, i], body[0].weight, None, padding=1).relu()
        hidden = (hidden / math.sqrt(1 + body[2].eps)).mean((2, 3))  # fresh running statistics
        logits.append(hidden @ body[6].weight.T + body[6].bias)
    expected = torch.stack(logits).softmax(0).permute(1, 0, 2)
    torch.testing.assert_close(model.weigh(maps)[:, 0], expected)
    assert body[0].bias is None and module(1).assigners[0].body[0].bias is not None


def test_regularisers_of_channels_are_means_of_each_channels() -> None:
    weights = random_weights(2, 3, 4 * 5).unflatten(2, (4, 5))
    for regulariser in (sparsity, diversity):
        each = [regulariser(weights[..., c]) for c in range(5)]
        torch.testing.assert_close(regulariser(weights), torch.stack(each).mean())


def test_weights_of_channels_are_told_as_their_mean() -> None:
    weights = random_weights(2, 3, 4 * 5).unflatten(2, (4, 5))
    torch.testing.assert_close(by_map(weights), weights.mean(3))
    assert by_map(weights[..., 0]) is not None and by_map(weights[..., 0]).shape == (2, 3, 4)


@pytest.mark.parametrize("members", [1, 3])
def test_vectors_have_weights_of_channels_too(members: int) -> None:
    torch.manual_seed(5)
    model = VectorAmalgamator(4, 2, 6, 0.0, members, "channel").eval()
    vectors = torch.randn(5, 3, 4)
    found = model(vectors)
    assert found.weights.shape == (members, 5, 2, 3, 4)
    torch.testing.assert_close(found.weights.sum(3), torch.ones(members, 5, 2, 4))
    norm = model.norm
    for m, j in itertools.product(range(members), range(2)):
        at = m * 2 + j
        part = slice(6 * at, 6 * (at + 1))
        hidden = (vectors @ model.first.weight[part].T + model.first.bias[part]).relu()
        logits = hidden / math.sqrt(1 + norm.eps) @ model.last[at] + model.bias[at]
        torch.testing.assert_close(found.weights[m, :, j], logits.softmax(1))
        torch.testing.assert_close(found.maps[m, :, j], (logits.softmax(1) * vectors).sum(1))
