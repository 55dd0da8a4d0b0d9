"""Seeds: scikit-learn draws from NumPy's global generator, which flowyml seeds without us."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import SGDClassifier

import flowyml
from flowyml import step
from flowyml_sklearn import plugin

PIXELS, DIGITS = load_digits(return_X_y=True)
PIXELS, DIGITS = PIXELS[:100], DIGITS[:100]


def test_a_seed_makes_fits_without_a_random_state_equal():
    fits = []
    for seed in (1, 1, 2):
        flowyml.seed_everything(seed)
        fits.append(SGDClassifier(max_iter=1000).fit(PIXELS, DIGITS).coef_)

    np.testing.assert_array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])


@step(seed=7)
def trained(trees: int) -> RandomForestClassifier:
    return RandomForestClassifier(trees).fit(PIXELS, DIGITS)


def test_a_seeded_step_gives_one_digest_and_leaves_the_generator_alone(store):
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)

    first, second = (store.save(trained(2), "forest").stored.digest for _ in range(2))

    assert first == second
    assert np.random.rand() == expected


def test_numpys_generator_is_registered_by_the_core_alone():
    assert not hasattr(plugin, "flowyml_register_random_sources")
