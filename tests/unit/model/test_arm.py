"""What is left of arms when few representations were chosen."""

import pytest

from lfm4ads.core.errors import UserError
from lfm4ads.data.choice import Choice
from lfm4ads.model.arm import ArmConfig, choose_arms

NAMES = ("user.ur", "user.cr_1", "item.ir")
CHOICE = Choice(representations=("user.cr_1", "item.ir"), dims={"item.ir": [2, 5]})


def test_every_way_keeps_what_was_chosen_and_its_dims():
    arms = {
        "all": ArmConfig(concat=("*",), gate=("item.*",), adapter=("user.*",), tokens=("*",)),
        "user": ArmConfig(concat=("user.cr_*",)),
        "vanilla": ArmConfig(),
        "copy": ArmConfig(copy="towers"),
    }
    named = {name: arm.named(NAMES) for name, arm in arms.items()}
    found = choose_arms(named, CHOICE)
    assert found["all"] == ArmConfig(
        concat=("user.cr_1", "item.ir"),
        gate=("item.ir",),
        adapter=("user.cr_1",),
        tokens=("user.cr_1", "item.ir"),
        dims={"item.ir": [2, 5]},
    )
    assert found["user"] == ArmConfig(concat=("user.cr_1",))
    assert (found["vanilla"], found["copy"]) == (named["vanilla"], named["copy"])
    assert choose_arms(named, Choice(features=("age",))) == named


def test_a_module_keeps_ur_and_ir_whole():
    arm = ArmConfig(module="logit", concat=("item.ir",)).named(NAMES)
    found = choose_arms({"module": arm}, CHOICE)["module"]
    assert found.reads == ("item.ir", "user.ur")
    assert found.dims == {"item.ir": [2, 5]}


def test_an_arm_of_which_nothing_is_left_is_refused():
    arms = {"sum": ArmConfig(concat=("user.ur",))}
    with pytest.raises(UserError, match=r"arm sum reads user\.ur, of which nothing was chosen"):
        choose_arms(arms, CHOICE)
