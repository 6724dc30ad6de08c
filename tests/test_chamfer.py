"""Chamfer distance against brute force with autograd, and what the release recorded."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pointmadi.ops import chamfer as module
from pointmadi.ops.chamfer import chamfer

PARITY = Path(os.environ.get("POINTMADI_PARITY", Path(__file__).parents[2] / "shared" / "parity"))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct(a: torch.Tensor, b: torch.Tensor, norm: str) -> torch.Tensor:
    """Compute it from all distances, as the definition says."""
    distances = (a[:, :, None] - b[:, None]).square().sum(-1)
    to_b, to_a = distances.amin(2), distances.amin(1)
    return to_b.mean() + to_a.mean() if norm == "l2" else (to_b.sqrt().mean() + to_a.sqrt().mean()) / 2


@pytest.mark.parametrize("block", [1, 2**10, 2**18])
@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (32, 32), (7, 90), (90, 7)])
def test_values_and_gradients_are_those_of_the_definition(
    n: int, m: int, norm: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "block_size", lambda device: block)
    a, b = random(6, n, 3).requires_grad_(), random(6, m, 3, seed=1).requires_grad_()
    expected = torch.autograd.grad(direct(a, b, norm), (a, b))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x, y = (t.detach().to(dtype).requires_grad_() for t in (a, b))
        value = chamfer(x, y, norm)
        assert value.dtype == dtype and value.shape == ()
        torch.testing.assert_close(value.double(), direct(a, b, norm), rtol=tolerance, atol=0)
        for found, wanted in zip(torch.autograd.grad(value, (x, y)), expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_gradcheck(norm: str) -> None:
    a, b = random(2, 5, 3).requires_grad_(), random(2, 4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: chamfer(a, b, norm), (a, b))


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_coincident_points_have_zero_distance_and_gradient(norm: str) -> None:
    a = random(3, 20, 3).float().requires_grad_()
    value = chamfer(a, a.detach().flip(1).clone(), norm)
    value.backward()
    assert value == 0 and (a.grad == 0).all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_far_from_the_origin(offset: float, norm: str) -> None:
    a, b = random(2, 40, 3).float() + offset, random(2, 50, 3, seed=1).float() + offset
    torch.testing.assert_close(chamfer(a, b, norm).double(), direct(a.double(), b.double(), norm), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    a, b = random(2, 40, 3).to(dtype).requires_grad_(), random(2, 50, 3, seed=1).to(dtype)
    value = chamfer(a, b)
    assert value.dtype == torch.float32 and value == chamfer(a.float(), b.float())
    assert torch.autograd.grad(value, a)[0].dtype == dtype


def test_of_equally_near_points_the_first_counts() -> None:
    a = torch.zeros(1, 1, 3, requires_grad=True)
    b = torch.tensor([[[1.0, 0, 0], [-1, 0, 0]]])
    to_b = torch.autograd.grad(chamfer(a, b), a)[0]
    assert to_b.tolist() == [[[-2.0, 0, 0]]]  # both points of b pull equally, a is pulled to the first


def test_symmetric_and_repeatable() -> None:
    a, b = random(4, 300, 3).float(), random(4, 200, 3, seed=1).float()
    assert chamfer(a, b) == chamfer(a, b)
    torch.testing.assert_close(chamfer(a, b), chamfer(b, a))


def test_not_a_number_stays_one_when_not_looked_for() -> None:
    a, b = random(2, 9, 3).float(), random(2, 9, 3, seed=1).float()
    a[0, 3] = torch.nan
    assert chamfer(a, b, check=False).isnan()
    with pytest.raises(ValueError, match="a has 1 points with NaN"):
        chamfer(a, b)


@pytest.mark.parametrize(
    ("a", "b", "norm", "message"),
    [
        (torch.zeros(2, 4, 3), torch.zeros(3, 4, 3), "l2", "same batch size"),
        (torch.zeros(2, 0, 3), torch.zeros(2, 4, 3), "l2", "a is empty"),
        (torch.zeros(2, 4, 3), torch.zeros(2, 0, 3), "l2", "b is empty"),
        (torch.zeros(4, 3), torch.zeros(2, 4, 3), "l2", "a must have shape"),
        (torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), "l3", "norm must be 'l2' or 'l1', not 'l3'"),
    ],
)
def test_errors_say_what_is_wrong(a: torch.Tensor, b: torch.Tensor, norm: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chamfer(a, b, norm)


def test_values_and_gradients_are_those_of_the_release() -> None:
    if not (PARITY / "chamfer.npz").exists():
        pytest.skip(f"no parity fixtures: {PARITY / 'chamfer.npz'} does not exist; set POINTMADI_PARITY")
    with np.load(PARITY / "chamfer.npz") as file:
        for kind, dtype, tolerance in (("f32", torch.float32, 1e-6), ("f64", torch.float64, 1e-12)):
            for norm in ("l2", "l1"):
                a, b = (torch.from_numpy(file[name]).to(dtype) for name in "ab")
                value = chamfer(a.requires_grad_(), b, norm)
                np.testing.assert_allclose(value.item(), file[f"{kind}/{norm}"], rtol=tolerance)
                np.testing.assert_allclose(
                    torch.autograd.grad(value, a)[0], file[f"{kind}/grad_{norm}"], rtol=tolerance, atol=tolerance / 100
                )


@pytest.mark.gpu
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_cuda_agrees_and_its_gradient_repeats(norm: str) -> None:
    a, b = random(8, 600, 3).float(), random(8, 700, 3, seed=1).float()
    gradients = []
    for device in ("cpu", "cuda", "cuda", "cuda"):
        x = a.to(device).detach().requires_grad_()
        gradients.append(torch.autograd.grad(chamfer(x, b.to(device), norm), x)[0].cpu())
    torch.testing.assert_close(gradients[0], gradients[1])
    assert torch.equal(gradients[1], gradients[2]) and torch.equal(gradients[1], gradients[3])
