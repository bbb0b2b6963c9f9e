"""Tables that begin rows anew between steps, and what would not see it."""

from dataclasses import replace

import pytest
from torch import nn

from lfm4ads.core.errors import UserError
from lfm4ads.nn.tables import Tables, TableSet
from lfm4ads.shard.kernel import KernelConfig
from lfm4ads.shard.place import PlaceConfig
from lfm4ads.shard.sharded import ShardConfig, _check_managed


def model_of(schema, *, ids):
    tables = {**schema.tables, "user": replace(schema.tables["user"], ids=ids)}
    schema = replace(schema, tables=tables)
    features = list(schema.select(sparse=True))
    return nn.ModuleList([Tables(schema, features, sets={"main": TableSet()})])


CACHED = PlaceConfig(kernels={"main/user": KernelConfig(kind="fused_uvm_caching")})


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (ShardConfig(pipelined=True), "but table main/user is managed and gives ids their rows"),
        (ShardConfig(place=CACHED), "table main/user is managed, and rows it begins anew would be"),
    ],
)
def test_what_would_not_see_rows_begin_anew_is_refused_in_a_sentence(schema, config, wanted):
    with pytest.raises(UserError, match=wanted) as caught:
        _check_managed(model_of(schema, ids="managed"), config=config)
    assert caught.value.everywhere
    _check_managed(model_of(schema, ids="hash"), config=config)
    _check_managed(model_of(schema, ids="managed"), config=ShardConfig())
