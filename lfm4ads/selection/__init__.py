"""Best subset selection: which columns, or which blocks of columns, a model should read."""

from lfm4ads.selection.estimators import BestSubsetClassifier, BestSubsetCox, BestSubsetRegressor

__all__ = ["BestSubsetClassifier", "BestSubsetCox", "BestSubsetRegressor"]
