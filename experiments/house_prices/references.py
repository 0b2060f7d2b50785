"""What scikit-learn makes of the same features: ridge, lasso and boosted trees."""

import numpy as np
from jaxtyping import Bool, Float

from ch4jax.house_prices import HousePrices
from experiments.common.console import progress, say
from experiments.house_prices import members


def fit(
    data: HousePrices, outer: Bool[np.ndarray, "folds rows"]
) -> dict[str, Float[np.ndarray, "folds rows"]]:
    """Return the log prices that each reference predicts, trained in each fold.

    The linear ones choose their penalty by cross-validation of the rows of their fold;
    the trees have one setting. There are none without scikit-learn (the extra `trees`).
    """
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.linear_model import LassoCV, RidgeCV
        from threadpoolctl import threadpool_limits  # which scikit-learn needs
    except ImportError:
        say("pip install -e '.[trees]' adds ridge, lasso and boosted trees")
        return {}
    boosting = HistGradientBoostingRegressor(
        learning_rate=0.05,
        max_iter=300,
        max_leaf_nodes=6,
        l2_regularization=1.0,
        max_features=0.3,
        random_state=0,
    )
    references = {
        "ridge": RidgeCV(np.logspace(-1, 3, 13)),
        "lasso": LassoCV(max_iter=10_000, cv=5, alphas=np.logspace(-4, -2, 9)),  # pyright: ignore[reportArgumentType]
        "boosting": boosting,
    }
    log_prices = members.log_of_prices(data)
    _, x = members.encode(data, outer)
    predictions = {name: [] for name in references}
    # On so few rows, threads that wait for each other cost more than they give.
    with threadpool_limits(1), progress("references", len(outer)) as step:
        for rows, features in zip(outer, x[:, : log_prices.size], strict=True):
            for name, reference in references.items():
                reference.fit(features[rows], log_prices[rows])
                predictions[name].append(reference.predict(features))
            step(", ".join(references))
    return {name: np.stack(of_fold) for name, of_fold in predictions.items()}
