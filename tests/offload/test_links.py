"""A worker in a process of its own does what it is asked, over every transport."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from offload.reference import product_of
from svetovid.offload.field import M31, P21
from svetovid.offload.links.framed import FramedLink
from svetovid.offload.links.local import started
from svetovid.offload.product import Product
from svetovid.offload.work import Term, Work

MATMUL = Product("matmul", (2, 3, 8), (2, 8, 5), (2, 3, 5))
CONV = Product("conv", (2, 3, 5, 5), (4, 3, 3, 3), (2, 4, 5, 5), (False, False), *[(1, 1)] * 3)


@pytest.fixture(scope="module")
def link() -> Iterator[FramedLink]:
    made = started(identity="worker-1", operator="ann")
    yield made
    made.close()


def residues(rng: np.random.Generator, count: int, p: int) -> np.ndarray:
    """Uniform, with both ends among them."""
    drawn = rng.integers(0, p, count, dtype=np.int32)
    drawn[:2] = 0, p - 1
    return drawn


@pytest.mark.parametrize("product", [MATMUL, CONV], ids=["matmul", "conv"])
@pytest.mark.parametrize("p", [P21.p, M31.p])
def test_a_sum_of_products_of_sums_is_exact(link: FramedLink, product: Product, p: int) -> None:
    rng = np.random.default_rng(1)
    left = [residues(rng, int(np.prod(product.a)), p) for _ in range(3)]
    right = [residues(rng, int(np.prod(product.b)), p) for _ in range(2)]
    for number, values in enumerate([*left, *right]):
        link.send(number, values.size, lambda out, values=values: np.copyto(out, values))
    terms = (Term(1, ((0, 1), (1, -1)), ((3, 1),)), Term(-1, ((2, 1),), ((4, -1),)))
    got = link.ask(Work(product, p, terms, 1)).wait().copy()
    link.drop()
    want = product_of(product, left[0] - left[1].astype(object), right[0])
    want = want + product_of(product, left[2], right[1])
    assert np.array_equal(got, (want % p).reshape(-1).astype(np.int32))
