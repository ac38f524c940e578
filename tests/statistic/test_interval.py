import numpy as np

from synthray.statistic.interval import generator, percentiles


def test_an_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        drawn = random.normal(size=60)
        samples = drawn[random.integers(0, 60, (300, 60))].mean(axis=1)
        low, high = percentiles(samples, 0.9)
        inside += low <= 0 <= high
    assert 0.84 <= inside / 400 <= 0.94


def test_what_is_not_defined_on_a_sample_has_no_interval() -> None:
    assert all(np.isnan(percentiles([0.5, np.nan, 0.7], 0.95)))


def test_random_numbers_depend_on_seed_and_parts_alone() -> None:
    first = generator(7, "bootstrap").integers(0, 2**60, 3).tolist()
    assert generator(7, "bootstrap").integers(0, 2**60, 3).tolist() == first
    assert generator(8, "bootstrap").integers(0, 2**60, 3).tolist() != first
    assert generator(7, "other").integers(0, 2**60, 3).tolist() != first
