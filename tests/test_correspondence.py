"""Sampling, matching, the loss and the heads."""

import pytest
import torch
import torch.nn.functional as F

from gate_cache.learn.modules.matching import ConvHead, Join, NearestNeighbour
from gate_cache.learn.tasks.correspondence import (
    CorrespondenceLoss,
    cells,
    nearest,
    peaks,
    sample,
    steps_between,
)

SHAPES = pytest.mark.parametrize(("h", "w"), [(6, 6), (4, 9), (9, 4)])


def descriptors(h: int, w: int, channels: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(channels, h, w, generator=generator), dim=0)


def centres(h: int, w: int) -> torch.Tensor:
    """Centres of all cells, row by row, as shares of width and height."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([(x + 0.5) / w, (y + 0.5) / h], -1).flatten(0, 1)


@SHAPES
def test_sampling_a_cell_centre_gives_its_descriptor(h: int, w: int) -> None:
    maps = descriptors(h, w)
    torch.testing.assert_close(sample(maps, centres(h, w)), maps.flatten(1).T,
                               rtol=1e-4, atol=1e-5)


def test_samples_between_cells_have_unit_length() -> None:
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sample(descriptors(5, 7), points).norm(dim=1), torch.ones(20))


def test_sampling_takes_x_first() -> None:
    maps = descriptors(4, 9)
    torch.testing.assert_close(sample(maps, torch.tensor([[7.5 / 9, 1.5 / 4]]))[0], maps[:, 1, 7],
                               rtol=1e-4, atol=1e-5)


def test_sampling_the_corner_of_the_picture_gives_the_corner_cell() -> None:
    maps = descriptors(5, 5)
    found = sample(maps, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(found, torch.stack([maps[:, 0, 0], maps[:, -1, -1]]))


@SHAPES
def test_match_finds_every_cell_of_an_identical_map(h: int, w: int) -> None:
    maps, points = descriptors(h, w, channels=64), centres(h, w)
    off = (nearest(sample(maps, points), maps) - points) * torch.tensor([w, h])
    assert off.abs().max() < 0.5


@SHAPES
def test_match_finds_a_planted_peak(h: int, w: int) -> None:
    source, target = descriptors(h, w, 64), descriptors(h, w, 64, seed=1)
    target[:, h - 2, w - 3] = source[:, 1, 1]
    found = nearest(sample(source, torch.tensor([[1.5 / w, 1.5 / h]])), target)[0]
    off = (found - torch.tensor([(w - 2.5) / w, (h - 1.5) / h])) * torch.tensor([w, h])
    assert off.abs().max() < 0.3


def test_match_is_finer_than_a_cell() -> None:
    """A peak shared by two neighbours is found nearer to their border than either centre."""
    source = torch.eye(3)[:, :2, None].expand(3, 2, 2)
    target = torch.tensor([0.0, 0.0, 1.0])[:, None, None].repeat(1, 8, 8)
    target[:, 4, 3] = F.normalize(torch.tensor([1.0, 0.0, 0.1]), dim=0)
    target[:, 4, 4] = F.normalize(torch.tensor([1.0, 0.0, 0.1]), dim=0)
    found = nearest(sample(source, torch.tensor([[0.25, 0.25]])), target)[0]
    assert abs(found[0].item() * 8 - 4) < 0.5


@SHAPES
@pytest.mark.parametrize("channels", [8, 700])
def test_dense_search_is_that_over_interpolated_descriptors(
    h: int, w: int, channels: int,
) -> None:
    """As DIFT and GATE define it: enlarge the target, bring it to unit length, multiply."""
    wanted, target = descriptors(h, w, channels).flatten(1).T, descriptors(h, w, channels, seed=1)
    count = steps_between(max(h, w))
    size = ((h - 1) * count + 1, (w - 1) * count + 1)
    enlarged = F.interpolate(target[None], size, mode="bilinear", align_corners=True)[0]
    found = peaks(torch.einsum("kd,dhw->khw", wanted, F.normalize(enlarged, dim=0)))
    steps = found * torch.tensor([size[1], size[0]]) - 0.5
    expected = (steps / count + 0.5) / torch.tensor([w, h])
    torch.testing.assert_close(nearest(wanted, target), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", [8, 16, 64])
def test_dense_search_is_as_exact_as_difts(side: int) -> None:
    """DIFT enlarges the target to the picture's size, here 512, and takes the best pixel.

    What is looked for is the target's own descriptor between cells, so the right place is known.
    """
    target = descriptors(side, side, 16)
    true = torch.rand(24, 2, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05
    wanted, pixels = sample(target, true), 512
    big = F.interpolate(target[None], (pixels, pixels), mode="bilinear")[0]
    best = (wanted @ F.normalize(big, dim=0).flatten(1)).argmax(1)
    dift = (torch.stack([best % pixels, best // pixels], 1) + 0.5) / pixels
    ours, theirs = ((found - true).norm(dim=1) * side for found in (nearest(wanted, target), dift))
    assert ours.max() < 0.2  # of a cell
    assert ours.mean() <= max(1.5 * theirs.mean(), 0.1)


def test_dense_search_finds_what_lies_between_cells() -> None:
    """A descriptor half way between two cells' is found between them; cells alone miss it."""
    target = torch.zeros(3, 1, 8)
    target[2] = 1
    target[:, 0, 2], target[:, 0, 3] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    target[:, 0, 6] = F.normalize(torch.tensor([0.76, 0.76, 0.2]), dim=0)  # not as like, but a cell
    target[2, 0, 6] += 0.6
    target[:, 0, 6] = F.normalize(target[:, 0, 6], dim=0)
    wanted = F.normalize(torch.tensor([[1.0, 1.0, 0]]), dim=1)
    assert nearest(wanted, target)[0, 0] * 8 == pytest.approx(3, abs=0.2)
    assert nearest(wanted, target, "cells")[0, 0] * 8 == pytest.approx(6.5, abs=0.5)


def test_match_stays_inside_the_picture() -> None:
    source, target = descriptors(5, 5), descriptors(5, 5, seed=1)
    found = nearest(sample(source, centres(5, 5)), target)
    assert found.min() > 0
    assert found.max() < 1


def pair(sharpness: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two maps whose partner cells are the more similar the sharper."""
    a, b = descriptors(6, 6), descriptors(6, 6, seed=1)
    points_a, points_b = centres(6, 6)[[7, 20, 28]], centres(6, 6)[[10, 3, 33]]
    for i, j in [(7, 10), (20, 3), (28, 33)]:
        mixed = (1 - sharpness) * b[:, j // 6, j % 6] + sharpness * a[:, i // 6, i % 6]
        b[:, j // 6, j % 6] = F.normalize(mixed, dim=0)
    return a, b, points_a, points_b


def test_loss_falls_as_the_right_cells_become_similar() -> None:
    loss = CorrespondenceLoss()
    values = [loss(*pair(sharpness)).item() for sharpness in (0.0, 0.3, 0.6, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.1 * values[0]


def test_loss_is_the_mean_cross_entropy_of_both_directions() -> None:
    a, b, points_a, points_b = pair(0.3)
    one_way = []
    for x, y, at, to in ((a, b, [7, 20, 28], [10, 3, 33]), (b, a, [10, 3, 33], [7, 20, 28])):
        similarity = x.flatten(1)[:, at].T @ y.flatten(1) / 0.07
        right = torch.stack([similarity[k, cell] for k, cell in enumerate(to)])
        one_way.append((similarity.exp().sum(1).log() - right).mean())
    expected = (one_way[0] + one_way[1]) / 2
    torch.testing.assert_close(CorrespondenceLoss()(a, b, points_a, points_b), expected,
                               rtol=1e-3, atol=1e-4)


def test_loss_is_symmetric() -> None:
    loss = CorrespondenceLoss()
    a, b, points_a, points_b = pair(0.3)
    torch.testing.assert_close(loss(a, b, points_a, points_b), loss(b, a, points_b, points_a))


def test_loss_has_finite_gradients_at_points_on_the_border() -> None:
    loss = CorrespondenceLoss()
    a, b = descriptors(4, 6).requires_grad_(), descriptors(6, 4, seed=1).requires_grad_()
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    value = loss(a, b, corners, corners)
    value.backward()
    assert value.isfinite()
    for tensor in (a, b, loss.log_scale):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_temperature_is_bounded() -> None:
    loss, sharp = CorrespondenceLoss(), pair(0.0)
    loss.log_scale.data.fill_(50.0)
    bounded = loss(*sharp).item()
    loss.log_scale.data.fill_(60.0)
    assert bounded == loss(*sharp).item()


@pytest.mark.parametrize(("x", "y", "cell"), [
    (0.0, 0.0, 0), (1.0, 0.0, 3), (0.0, 1.0, 8), (1.0, 1.0, 11),
    (0.2499, 0.0, 0), (0.25, 0.0, 1), (0.3, 0.34, 5), (-0.1, 1.2, 8),
])
def test_cells_hold_their_points(x: float, y: float, cell: int) -> None:
    assert cells(torch.tensor([[x, y]]), 3, 4).tolist() == [cell]


@SHAPES
def test_cells_number_all_centres_in_order(h: int, w: int) -> None:
    assert cells(centres(h, w), h, w).tolist() == list(range(h * w))


def raw_maps(channels: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, 3, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("attention", [None, raw_maps(4, 1)])
def test_joined_descriptors_have_unit_length(attention: torch.Tensor | None) -> None:
    joined = Join()(raw_maps(), attention)
    assert joined.shape[1] == 8 + (0 if attention is None else 4)
    torch.testing.assert_close(joined.norm(dim=1), torch.ones(2, 3, 5))


def test_join_ignores_the_scale_of_its_parts() -> None:
    join = Join()
    features, attention = raw_maps(), raw_maps(4, 1)
    torch.testing.assert_close(join(features, attention), join(50 * features, attention / 300))


def test_attention_changes_similarities() -> None:
    """Equal features with opposite attention are as similar as the learnt share says."""
    join = Join()
    features, attention = raw_maps(), raw_maps(4, 1)
    there, other = join(features, attention), join(features, -attention)
    share = join.attention_scale.item() ** 2
    expected = torch.full((2, 3, 5), (1 - share) / (1 + share))
    torch.testing.assert_close((there * other).sum(1), expected)


def test_the_share_of_attention_is_learnt() -> None:
    join = Join()
    (join(raw_maps(), raw_maps(4, 1)) * join(raw_maps(), raw_maps(4, 2))).sum().backward()
    assert join.attention_scale.grad is not None
    assert join.attention_scale.grad.abs() > 0


def sums(assigners: int = 2) -> torch.Tensor:
    return torch.randn(2, assigners, 8, 3, 5, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("tokens", "channels"), [(0, 16), (4, 20)])
def test_nearest_neighbour_concatenates_sums_and_attention(tokens: int, channels: int) -> None:
    attention = raw_maps(tokens) if tokens else None
    assert NearestNeighbour()(sums(), attention).shape == (2, channels, 3, 5)


@pytest.mark.parametrize(("tokens", "channels"), [(0, 12), (4, 16)])
def test_conv_head_concatenates_its_outputs_and_attention(tokens: int, channels: int) -> None:
    attention = raw_maps(tokens) if tokens else None
    assert ConvHead(8, 2, 6)(sums(), attention).shape == (2, channels, 3, 5)


def test_conv_head_has_a_convolution_for_each_assigner() -> None:
    head, maps = ConvHead(8, 2, 6), sums()
    swapped = head(maps.flip(1), None)
    assert not torch.allclose(head(maps, None)[:, :6], swapped[:, 6:], atol=1e-3)
    assert sum(p.numel() for p in head.convs.parameters()) == 2 * (8 * 9 * 6 + 6)
