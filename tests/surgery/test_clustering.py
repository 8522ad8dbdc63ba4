"""k-means on filters: every cluster has a member, near points share one, the same at each call."""

from __future__ import annotations

import pytest
import torch

from paredown.surgery.clustering import averages, kmeans, members


def test_near_points_share_a_cluster() -> None:
    centres = torch.tensor([[0.0, 0], [100, 0], [0, 100], [100, 100]], dtype=torch.float64)
    torch.manual_seed(0)
    order = torch.randperm(20)
    points = (centres.repeat(5, 1) + torch.rand(20, 2, dtype=torch.float64))[order]
    found = members(kmeans(points, 4))
    assert sorted(len(cluster) for cluster in found) == [5, 5, 5, 5]
    assert all(len({int(order[i]) % 4 for i in cluster}) == 1 for cluster in found)


@pytest.mark.parametrize("number", [1, 2, 7, 11, 12])
@pytest.mark.parametrize("kind", ["random", "equal", "two"])
def test_no_cluster_is_empty(number: int, kind: str) -> None:
    torch.manual_seed(1)
    points = torch.randn(12, 3, dtype=torch.float64)
    points = {"random": points, "equal": torch.ones_like(points), "two": points[:2].repeat(6, 1)}[kind]
    found = kmeans(points, number)
    assert sorted(found.unique().tolist()) == list(range(number))
    assert torch.equal(found, kmeans(points, number))
    sets = members(found)
    assert sorted(i for cluster in sets for i in cluster) == list(range(12))
    assert [cluster[0] for cluster in sets] == sorted(cluster[0] for cluster in sets)


def test_lloyds_steps_end_where_no_point_is_nearer_to_another_mean() -> None:
    torch.manual_seed(2)
    points = torch.randn(60, 4, dtype=torch.float64)
    found = kmeans(points, 6)
    means = torch.stack([points[found == c].mean(0) for c in range(6)])
    assert torch.allclose(averages(points, found, 6), means)
    assert torch.equal((points[:, None] - means).norm(dim=2).argmin(1), found)
