"""What two samples differ in, against force: every statistic recounted, intervals resampled, levels simulated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import sparse

from synthray.statistic import contrast
from synthray.statistic.contrast import Cloud, Kinds, Means
from synthray.statistic.permutation import Design

Z = 1.959964


def means(values: np.ndarray, parts: np.ndarray, size: int, shares: tuple[int, ...] = ()) -> Means:
    sums, counts = np.zeros((2, size, values.shape[1]))
    np.add.at(sums, parts, np.nan_to_num(values))
    np.add.at(counts, parts, np.isfinite(values))
    return Means(sums, counts, shares)


def observed(design: Design) -> tuple[np.ndarray, np.ndarray]:
    first, second = design.observed
    return first[None, :], second[None, :]


def kinds_of(rows: list[set[int]], parts: np.ndarray, size: int, at: np.ndarray, most: int | None) -> Kinds:
    top = 1 + max(max(row) for row in rows)
    held = np.zeros((top, size))
    for row, part in zip(rows, parts, strict=True):
        held[list(row), part] += 1
    held = held[held.sum(axis=1) > 0]
    tokens = np.bincount(parts, [len(row) for row in rows], size)
    counted = np.bincount(parts, minlength=size).astype(float)
    return Kinds(at, sparse.csr_matrix(held[:, at]), counted[at], tokens[at], most, True)


def test_means_are_the_means_and_their_difference() -> None:
    values = np.array([[1.0, 1], [2, 0], [np.nan, 1], [6, 0], [8, 0]])
    held = means(values, np.array([0, 0, 1, 2, 3]), 4)
    design = Design(2, 2, False)
    one, other = held.estimates(design, Z)
    assert (one.first, one.second, one.difference) == (1.5, 7.0, 5.5)
    assert other.first == pytest.approx(2 / 3)
    assert held.over(design, observed(design))[0] == pytest.approx([5.5, -2 / 3])


def test_means_of_permuted_sides_are_those_of_the_rows_that_moved() -> None:
    random = np.random.default_rng(1)
    parts = np.repeat(np.arange(20), 3)
    values = random.normal(size=(60, 2))
    held = means(values, parts, 20)
    design = Design(8, 12, False)
    block = next(itertools.islice(design.draws(5, random), 1, None))
    for line, found in zip(block[0], held.over(design, block), strict=True):
        first = line[parts]
        assert found == pytest.approx(values[~first].mean(axis=0) - values[first].mean(axis=0))


def test_one_statistic_speaks_for_all_shares() -> None:
    labels = np.eye(3)[[0, 0, 1, 2, 0, 1, 1, 2]]
    held = means(labels, np.arange(8), 8, (0, 1, 2))
    design = Design(4, 4, False)
    found = held.over(design, observed(design))[0]
    whole = labels.mean(axis=0)
    apart = labels[4:].mean(axis=0) - labels[:4].mean(axis=0)
    assert found[3] == pytest.approx(np.sqrt((apart**2 / whole).sum()))


@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_is_that_of_a_bootstrap_over_roots(paired: bool) -> None:
    random = np.random.default_rng(2)
    roots = 150
    sizes = random.integers(1, 6, 2 * roots)
    parts = np.repeat(np.arange(2 * roots), sizes)
    effect = 2 * random.normal(size=roots)
    effects = np.concatenate([effect, effect if paired else 2 * random.normal(size=roots)])
    values = (effects[parts] + random.normal(size=len(parts)))[:, None]
    held = means(values, parts, 2 * roots)
    found = held.estimates(Design(roots, roots, paired), Z)[0]
    resampled = []
    for _ in range(3000):
        one = random.integers(0, roots, roots)
        other = roots + (one if paired else random.integers(0, roots, roots))
        sides = [held.sums[side, 0].sum() / held.counts[side, 0].sum() for side in (one, other)]
        resampled.append(sides[1] - sides[0])
    width = 2 * Z * np.std(resampled)
    assert found.high - found.low == pytest.approx(width, rel=0.08)
    by_row = 2 * Z * np.sqrt(2 * values.var() / (len(parts) / 2))
    assert abs(width / by_row - 1) > 0.1, "the roots do not matter here: the test tests nothing"


def test_rarefaction_is_the_mean_over_all_subsets() -> None:
    rows = [{0, 1}, {1, 2}, {0, 3, 4}, {1}, {5, 0}, {6}]
    counts = np.array([sum(kind in row for row in rows) for kind in range(7)])
    for drawn in range(1, 7):
        every = [len(set().union(*chosen)) for chosen in itertools.combinations(rows, drawn)]
        assert contrast.rarefied(counts, 6, drawn) == pytest.approx(np.mean(every))


@pytest.mark.parametrize("paired", [True, False])
def test_kinds_of_permuted_sides_are_those_recounted(paired: bool) -> None:
    random = np.random.default_rng(4)
    size = 24
    parts = np.repeat(np.arange(size), random.integers(1, 4, size))
    rows = [set(random.zipf(1.5, 6).clip(max=60).tolist()) for _ in parts]
    design = Design(12, 12, True) if paired else Design(15, 9, False)
    at = np.arange(size) if paired else random.permutation(size)
    most = None if paired else 9
    held = kinds_of(rows, parts, size, at, most)
    block = [*design.draws(8, random)][1]
    for line, (value, apart) in zip(block[0], held.over(block), strict=True):
        wanted, counted = [], []
        for side in (line, ~line):
            shown = [one for one in at if side[one]][:most]
            picked = [row for row, part in zip(rows, parts, strict=True) if part in set(shown)]
            wanted.append(len(set().union(*picked)) / sum(len(row) for row in picked))
            counted.append(len(picked))
        assert value == pytest.approx(wanted[1] - wanted[0])
        assert apart == counted[1] - counted[0]


def test_a_side_with_more_rows_is_not_more_varied() -> None:
    random = np.random.default_rng(5)
    rows = [set(random.zipf(1.3, 12).clip(max=4000).tolist()) for _ in range(900)]
    design = Design(800, 100, False)
    held = kinds_of(rows, np.arange(900), 900, random.permutation(900), 100)
    found = Kinds(held.at, held.held, held.rows, held.tokens, held.most, False).estimate(design, Z)
    assert found.low < 0 < found.high
    every = Kinds(held.at, held.held, held.rows, held.tokens, None, False)
    assert every.equal_rows(design) == 100
    assert every.estimate(design, Z).first == pytest.approx(found.first, rel=0.1), (
        "rarefied to 100 rows as well"
    )


def test_the_number_of_rows_is_taken_out_of_what_depends_on_it() -> None:
    random = np.random.default_rng(6)
    rows = random.normal(size=400)
    value = 3 * rows + random.normal(size=400)
    mended = contrast.level(np.stack([value, rows], axis=1))
    assert abs(np.corrcoef(mended, rows)[0, 1]) < 1e-9
    assert contrast.level(np.stack([value, np.ones(400)], axis=1)) == pytest.approx(value)


def test_features_have_the_kernel_of_gauss_as_their_product() -> None:
    random = np.random.default_rng(7)
    unit = random.normal(size=(30, 16))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    held = contrast.features(unit, random)
    distance = ((unit[:, None] - unit[None]) ** 2).sum(axis=2)
    assert held @ held.T == pytest.approx(np.exp(-distance / 2), abs=0.2)


def test_the_distance_of_vectors_is_that_of_their_mean_features() -> None:
    random = np.random.default_rng(8)
    sums, rows = random.normal(size=(10, 4)), np.arange(1.0, 11)
    block = observed(Design(10, 6, False))
    at = np.array([0, 3, 12, 5, 15, 1, 13, 9, 14, 2])
    shown = at < 10
    apart = sums[shown].sum(axis=0) / rows[shown].sum() - sums[~shown].sum(axis=0) / rows[~shown].sum()
    assert Cloud(at, sums, rows).over(block)[0, 0] == pytest.approx(np.linalg.norm(apart))


def simulated(design: Design, draw: object, trials: int, random: np.random.Generator) -> float:
    """Return how often a difference of means is called at 5 %."""
    calls = 0
    for _ in range(trials):
        values, parts = draw()  # type: ignore[operator]
        held = means(values[:, None], parts, design.parts)
        calls += contrast.tested(design, held, [], [], 199, random).p[0] <= 0.05
    return calls / trials


def test_rows_of_one_root_do_not_make_two_samples_of_one_thing_different() -> None:
    random = np.random.default_rng(9)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        parts = np.repeat(np.arange(60), 6)
        return np.repeat(random.normal(size=60), 6) + 0.5 * random.normal(size=360), parts

    def by_row() -> tuple[np.ndarray, np.ndarray]:
        return draw()[0], np.arange(360)

    assert 0.03 < simulated(Design(30, 30, False), draw, 600, random) < 0.07
    assert simulated(Design(180, 180, False), by_row, 100, random) > 0.3


def test_a_run_that_makes_more_rows_of_each_root_is_no_other_for_it() -> None:
    random = np.random.default_rng(11)
    parts = np.concatenate([np.repeat(np.arange(40), 8), np.repeat(np.arange(40, 80), 2)])

    def draw(shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        effect = np.tile(random.normal(size=40), 2)
        return 3 * effect[parts] + random.normal(size=len(parts)) + shift * (parts >= 40), parts

    assert 0.03 < simulated(Design(40, 40, True), draw, 600, random) < 0.07
    # Were rows not weighed, what the rows of a root have in common would drown what differs.
    assert simulated(Design(40, 40, True), lambda: draw(0.6), 60, random) > 0.9
