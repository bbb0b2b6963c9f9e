"""Which days a downstream model trains, validates and is tested on."""

from dataclasses import dataclass

from lfm4ads.data.index import Dataset


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Days of the downstream data, YYYYMMDD; valid and test follow train without a gap."""

    train_first: int
    train_last: int
    valid_last: int
    test_last: int

    def __post_init__(self) -> None:
        if not self.train_first <= self.train_last < self.valid_last < self.test_last:
            raise ValueError(
                "split must be train_first <= train_last < valid_last < test_last, got "
                f"{self.train_first}, {self.train_last}, {self.valid_last}, {self.test_last}"
            )

    def days(self, dataset: Dataset) -> dict[str, list[int]]:
        """Return the days of train, valid and test; the named ones must exist."""
        return {
            "train": dataset.between(self.train_first, self.train_last),
            "valid": dataset.between(self.train_last, self.valid_last)[1:],
            "test": dataset.between(self.valid_last, self.test_last)[1:],
        }
