"""Features of the house-price tables as good competitors make them, without leaks.

`fit` estimates everything that is estimated (medians, spreads, which kinds are
frequent, the effect of a neighbourhood) from the rows it is given, and nothing else.
For such a row, the effect of its neighbourhood leaves out its own price.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from ch4jax.errors import DataError

QUALITY = ("Po", "Fa", "TA", "Gd", "Ex")
FINISH = ("Unf", "LwQ", "Rec", "BLQ", "ALQ", "GLQ")
ORDINAL = {  # from worst to best; missing means that the house has none: 0
    **dict.fromkeys(("ExterQual", "ExterCond", "BsmtQual", "BsmtCond"), QUALITY),
    **dict.fromkeys(("HeatingQC", "KitchenQual", "FireplaceQu", "PoolQC"), QUALITY),
    **dict.fromkeys(("GarageQual", "GarageCond"), QUALITY),
    **dict.fromkeys(("BsmtFinType1", "BsmtFinType2"), FINISH),
    "Alley": ("Grvl", "Pave"),
    "BsmtExposure": ("No", "Mn", "Av", "Gd"),
    "CentralAir": ("N", "Y"),
    "Fence": ("MnWw", "GdWo", "MnPrv", "GdPrv"),
    "Functional": ("Sal", "Sev", "Maj2", "Maj1", "Mod", "Min2", "Min1", "Typ"),
    "GarageFinish": ("Unf", "RFn", "Fin"),
    "LandSlope": ("Sev", "Mod", "Gtl"),
    "LotShape": ("IR3", "IR2", "IR1", "Reg"),
    "PavedDrive": ("N", "P", "Y"),
    "Street": ("Grvl", "Pave"),
    "Utilities": ("ELO", "NoSeWa", "NoSewr", "AllPub"),
}
NEVER_ABSENT = ("Functional", "KitchenQual", "Utilities")  # missing means unknown
SKEWED = (
    *("LotArea", "LotFrontage", "1stFlrSF", "GrLivArea", "TotalSF", "WeightedSF"),
    *("BsmtFinSF2", "LowQualFinSF", "WoodDeckSF", "OpenPorchSF", "EnclosedPorch"),
    *("3SsnPorch", "ScreenPorch", "PorchSF", "PoolArea", "MiscVal"),
)
PRESENCE = (
    *("PoolArea", "2ndFlrSF", "BsmtFinSF1", "GarageArea", "MasVnrArea"),
    *("WoodDeckSF", "OpenPorchSF"),
)
# Numbers fine enough for periodic embeddings; they are the first columns.
CONTINUOUS = (
    *("TotalSF", "GrLivArea", "LotArea", "WeightedSF", "1stFlrSF", "2ndFlrSF"),
    *("TotalBsmtSF", "BsmtFinSF1", "BsmtUnfSF", "GarageArea", "LotFrontage"),
    *("MasVnrArea", "WoodDeckSF", "OpenPorchSF", "EnclosedPorch", "PorchSF"),
    *("YearBuilt", "YearRemodAdd", "Age", "SinceRemodel", "GarageAge", "SoldAt"),
    *("OverallQual", "OverallCond", "QualitySum", "QualityByArea", "QualityByAge"),
    *("RoomSize", "Baths", "TotRmsAbvGrd", "NeighborhoodEffect"),
)
NUM_KINDS = 160  # the most frequent ones get a column; fixed, so that all folds match
RAREST = 4  # rows a kind needs for a column
SHRINKAGE = 10.0  # the mean of all neighbourhoods weighs as much as this many rows


class Encoder(NamedTuple):
    """What `fit` estimated.

    Attributes:
      median: of each number; replaces missing ones.
      scale: of each number: the deviation of a normal with its interquartile range.
      kinds: the pairs (column, kind) that get a column.
      place_sum: log price per area, summed over each neighbourhood.
      place_rows: rows in each neighbourhood.
    """

    median: pd.Series
    scale: pd.Series
    kinds: list[tuple[str, str]]
    place_sum: dict[str, float]
    place_rows: dict[str, int]


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """Return what follows from each row alone; nothing is estimated here.

    Args:
      table: as `house_prices.read` returns it; `Id` and `SalePrice` are left out.

    Returns:
      Numbers, and kinds as text.

    Raises:
      DataError: if a quality is a word that its scale lacks; names column and row.
    """
    made = table.drop(columns=["Id", "SalePrice"], errors="ignore").assign(
        MSSubClass=table["MSSubClass"].map("{:g}".format),  # 60.0 is 60
        Month=table["MoSold"].map("{:g}".format),
        Neighborhood=table["Neighborhood"].fillna("unknown"),
    )
    for column, scale in ORDINAL.items():
        ranks = made[column].map({kind: i for i, kind in enumerate(scale, start=1)}.get)
        if len(rows := np.flatnonzero(ranks.isna() & made[column].notna())):
            raise DataError(
                f"{made[column].iloc[rows[0]]!r} for {column} in row {rows[0] + 1}: "
                f"expected one of {', '.join(scale)}, or nothing"
            )
        made[column] = ranks.astype(float)
        if column not in NEVER_ABSENT:
            made[column] = made[column].fillna(0.0)
    numbers = made.select_dtypes("number").fillna(0.0)
    basement = numbers["TotalBsmtSF"]
    finished = numbers["BsmtFinSF1"] + numbers["BsmtFinSF2"]
    porches = ("OpenPorchSF", "EnclosedPorch", "3SsnPorch", "ScreenPorch")
    more = {
        "TotalSF": basement + numbers["1stFlrSF"] + numbers["2ndFlrSF"],
        "WeightedSF": numbers["GrLivArea"]
        + 0.5 * finished
        + 0.3 * (numbers["BsmtUnfSF"] + numbers["GarageArea"]),
        "PorchSF": numbers["WoodDeckSF"] + sum(numbers[column] for column in porches),
        "RoomSize": numbers["GrLivArea"] / numbers["TotRmsAbvGrd"].clip(lower=1),
        "Baths": numbers["FullBath"]
        + numbers["BsmtFullBath"]
        + 0.5 * (numbers["HalfBath"] + numbers["BsmtHalfBath"]),
        "Age": made["YrSold"] - made["YearBuilt"],
        "SinceRemodel": made["YrSold"] - made["YearRemodAdd"],
        # One garage is from the year 2207.
        "GarageAge": (made["YrSold"] - made["GarageYrBlt"]).clip(lower=0),
        "SoldAt": made["YrSold"] + made["MoSold"] / 12,
        "IsNew": (made["YrSold"] <= made["YearBuilt"]).astype(float),
        "IsRemodeled": (made["YearRemodAdd"] > made["YearBuilt"]).astype(float),
        "QualityByCondition": made["OverallQual"] * made["OverallCond"],
        "QualitySum": numbers["OverallQual"]
        + numbers["ExterQual"]
        + numbers["KitchenQual"]
        + 0.5 * numbers["BsmtQual"],
    }
    made = made.assign(**more)
    made = made.assign(**{f"Has{c}": (numbers[c] > 0).astype(float) for c in PRESENCE})
    for column in SKEWED:
        made[column] = np.log1p(made[column].clip(lower=0))
    # Centred at an average house; otherwise these hardly differ from their factors.
    above = numbers["OverallQual"] - 6
    return made.assign(
        QualityByArea=above * (made["TotalSF"] - 7.8), QualityByAge=above * made["Age"]
    )


def fit(derived: pd.DataFrame, log_prices: Float[np.ndarray, " n"]) -> Encoder:
    """Estimate an encoder from these rows, which come from `derive`."""
    value = pd.Series(log_prices - derived["TotalSF"].to_numpy())
    by_place: Any = value.groupby(derived["Neighborhood"].to_numpy())
    place_sum, place_rows = by_place.sum().to_dict(), by_place.size().to_dict()
    numbers: Any = _numbers(place_sum, place_rows, derived, log_prices)
    median = numbers.median().fillna(0.0)  # all of a column may be missing
    filled = numbers.fillna(median)
    spread = (filled.quantile(0.75) - filled.quantile(0.25)) / 1.349
    spread = spread.where(spread > 0, filled.std())  # most rows may be alike
    counts = {
        (column, str(kind)): count
        for column in derived.select_dtypes(exclude="number")
        for kind, count in derived[column].value_counts().items()
        if count >= RAREST
    }
    return Encoder(
        median,
        scale=spread.where(spread > 0, np.inf),  # a constant becomes 0
        kinds=sorted(counts, key=lambda pair: (-counts[pair], pair))[:NUM_KINDS],
        place_sum=place_sum,
        place_rows=place_rows,
    )


def encode(
    encoder: Encoder,
    derived: pd.DataFrame,
    log_prices: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, "n features"]:
    """Turn rows into numbers: `CONTINUOUS` first, then the others, then the kinds.

    Numbers are scaled robustly and bent smoothly into (-3, 3), so that one huge number
    cannot dominate a prediction (Holzmüller et al., 2024).

    Args:
      encoder: from `fit`.
      derived: the rows, from `derive`.
      log_prices: pass them for the rows that `fit` was given, and for no others: each
        is left out of the effect of its own neighbourhood.
    """
    numbers = _numbers(encoder.place_sum, encoder.place_rows, derived, log_prices)
    scaled = (numbers.fillna(encoder.median) - encoder.median) / encoder.scale
    bent = scaled / np.sqrt(1 + (scaled / 3) ** 2)
    kinds = np.zeros((len(derived), NUM_KINDS))
    for i, (column, kind) in enumerate(encoder.kinds):
        kinds[:, i] = derived[column].to_numpy() == kind
    return np.concatenate([bent.to_numpy(float), kinds], axis=1)


def _numbers(
    place_sum: dict[str, float],
    place_rows: dict[str, int],
    derived: pd.DataFrame,
    log_prices: np.ndarray | None,
) -> pd.DataFrame:
    """Return the numbers in their order, with the effect of each neighbourhood.

    That is its mean log price per area, shrunken towards the mean of all.
    """
    places = list(derived["Neighborhood"])
    total = np.array([place_sum.get(place, 0.0) for place in places])
    rows = np.array([place_rows.get(place, 0) for place in places])
    all_total = np.full(len(places), sum(place_sum.values()))
    all_rows = sum(place_rows.values())
    if log_prices is not None:
        own = log_prices - derived["TotalSF"].to_numpy()
        total, rows = total - own, rows - 1
        all_total, all_rows = all_total - own, max(all_rows - 1, 1)
    effect = (total + SHRINKAGE * all_total / all_rows) / (rows + SHRINKAGE)
    numbers: Any = derived.assign(NeighborhoodEffect=effect).select_dtypes("number")
    others = [name for name in numbers if name not in CONTINUOUS]
    return numbers[[*CONTINUOUS, *others]]
