"""The file of a choice: written and read back, and refused in one sentence where it is wrong."""

import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.choice import Choice, ChosenBy, load_choice, write_choice

FEATURES = ("age", "city", "item_id")
REPS = ("user.ur", "user.cr_1", "item.ir")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.yaml"


def load(path):
    return load_choice(path, features=FEATURES, representations=REPS)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(features=("age",), criterion=ChosenBy(name="bic", value=3.5), command="-m x"),
        Choice(representations=("item.ir", "user.ur"), dims={"item.ir": [0, 7]}),
    ],
)
def test_what_is_written_is_read_back(path, choice):
    write_choice(path, choice)
    assert load(path) == choice


def test_what_was_not_asked_about_is_kept_whole(path):
    write_choice(path, Choice(representations=("item.ir", "user.ur")))
    choice = load(path)
    assert choice.keep_features(FEATURES) == FEATURES
    assert choice.keep_representations(REPS) == ("user.ur", "item.ir")
    write_choice(path, Choice(features=("city", "age")))
    choice = load(path)
    assert choice.keep_features(FEATURES) == ("age", "city")
    assert choice.keep_representations(REPS) == REPS


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("command: x", "neither features nor representations are listed"),
        ("featuers: [age]", "there is no key featuers; did you mean features"),
        ("features: 3", "features: Invalid value"),
        ("- age", "must hold 'key: value' lines"),
        ("features: [age", "is not valid YAML"),
        ("features: [sex]", "chooses feature sex, which is not there; there are age, city"),
        ("features: []", "chooses no feature at all"),
        ("representations: [user.no]", "chooses representation user.no, which is not there"),
        ("representations: []", "chooses no representation at all"),
        ("{representations: [user.ur], dims: {item.ir: [1]}}", "dims names item.ir, which"),
        ("{representations: [user.ur], dims: {user.ur: [2, 1]}}", "dims of user.ur must ascend"),
        ("{representations: [user.ur], dims: {user.ur: []}}", "dims of user.ur must ascend"),
        ("{representations: [user.ur], dims: {user.ur: [-1]}}", "dims of user.ur must ascend"),
    ],
)
def test_a_wrong_file_is_one_sentence(path, text, sentence):
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_one_of_the_other_kind(path):
    with pytest.raises(UserError, match="does not exist; run select first"):
        load(path)
    write_choice(path, Choice(representations=("user.ur",)))
    with pytest.raises(UserError, match="run select with choose=features"):
        load_choice(path, features=FEATURES)
    with pytest.raises(UserError, match="none of which is among the features city of the model"):
        Choice(features=("age",)).keep_features(["city"])
