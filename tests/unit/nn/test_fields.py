"""The field encoder against a loop over rows and features."""

import numpy as np
import pytest
import torch

from lfm4ads.core.errors import UserError
from lfm4ads.nn.fields import FieldConfig, FieldEncoder, VectorConfig, check_codes, vector_spans
from lfm4ads.nn.numbers import NumberConfig
from lfm4ads.nn.tables import Tables, TableSet
from tests.batches import lists_of, pad, take
from tests.unit.nn.lookup import random_tables, weight_of

LINEAR = FieldConfig(number=NumberConfig(dim=3), vector=VectorConfig(dim=5))
RAW = FieldConfig(number=NumberConfig(dim=3, kinds={"price": "raw"}), vector=VectorConfig(dim=5))
CODES = FieldConfig(
    number=NumberConfig(kind="equal_frequency", dim=4, levels=9, kinds={"age": "linear"}),
    vector=VectorConfig(dim=6, codes={"picture": 5, "taste": 3}),
)
SETS = {"main": TableSet(), "wide": TableSet(dim=16)}
EVERY = (
    "user_id", "recent", "age", "taste", "item_id", "tags", "price", "picture", "hour"
)  # fmt: skip


def build(schema, features, batch, *, config=LINEAR, unpooled=(), table_set="wide"):
    tables = random_tables(Tables(schema, features, sets=SETS, unpooled=unpooled))
    encoder = FieldEncoder(schema, features, tables=tables, table_set=table_set, config=config)
    if encoder.numerals is not None:
        columns = [schema.select(kind="number").index(name) for name in encoder.numerals.names]
        encoder.numerals.quantiser.fit(batch.numbers[:, columns].numpy())
    return tables, encoder


def encode_row(encoder, tables, schema, batch, row, *, table_set):
    """Every field by name: means over a list, zero for an empty one; numbers; vectors; codes."""
    ids, found = lists_of(batch.sparse), {}
    for name in encoder.names:
        feature = schema.features[name.removesuffix("_code")]
        if feature.is_sparse:
            weight = weight_of(tables, name, table_set, schema).detach()
            rows = [weight[value] for value in ids[name][row]]
            found[name] = torch.stack(rows).mean(0) if rows else torch.zeros(weight.shape[1])
        elif feature.kind == "number":
            found[name] = encode_number(encoder, schema, name, batch, row)
        else:
            start, stop = vector_spans(schema)[name.removesuffix("_code")]
            found[name] = encode_vector(encoder, name, batch.vectors[row, start:stop])
    return np.concatenate([found[name].detach().numpy() for name in encoder.names])


def encode_number(encoder, schema, name, batch, row):
    x = batch.numbers[row, schema.select(kind="number").index(name)]
    coded = encoder.numerals.names if encoder.numerals is not None else []
    if encoder.dims[encoder.names.index(name)] == 1:
        return x.nan_to_num().reshape(1)
    if name not in coded:
        numbers = [
            one
            for one, dim in zip(encoder.names, encoder.dims, strict=True)
            if one in schema.select(kind="number") and dim > 1
        ]
        place = [one for one in numbers if one not in coded].index(name)
        return x.nan_to_num() * encoder.linear.weight[place] + encoder.linear.bias[place]
    column = torch.full((1, len(coded)), torch.nan)
    column[0, coded.index(name)] = x
    levels = encoder.numerals.quantiser(column)
    return encoder.numerals.numerals(levels)[0, coded.index(name)]


def encode_vector(encoder, name, vector):
    if not name.endswith("_code"):
        linear = encoder.vector_maps[name].linear
        return linear.weight @ vector.nan_to_num() + linear.bias
    parts = encoder.vector_codes[name.removesuffix("_code")]
    weight = parts.digits.weight["base2"][0]
    if vector.isnan().any():
        return weight[-1]
    signs = [float(vector @ plane) > 0 for plane in parts.code.planes.T]
    return sum(weight[2 * bit + side] for bit, side in enumerate(signs))


@pytest.mark.parametrize("config", [LINEAR, RAW, CODES], ids=["linear", "raw", "codes"])
@pytest.mark.parametrize("unpooled", [(), ("item",), ("user", "item", "tag")], ids=len)
@pytest.mark.parametrize(
    "features",
    [
        EVERY,
        ("item_id", "price"),
        ("picture", "tags", "user_id"),
        ("price", "taste"),
        ("hour",),
    ],
    ids="+".join,
)
def test_every_row_is_the_loop(schema, batch, features, unpooled, config):
    for table_set in SETS:
        tables, encoder = build(
            schema, features, batch, config=config, unpooled=unpooled, table_set=table_set
        )
        found = encoder(tables(batch.sparse), batch)
        assert found.shape == (len(batch), encoder.width)
        assert sum(encoder.dims) == encoder.width
        for row in range(0, len(batch), 3):
            wanted = encode_row(encoder, tables, schema, batch, row, table_set=table_set)
            np.testing.assert_allclose(found[row].detach().numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_data_has_what_the_loop_must_see(batch):
    lists = lists_of(batch.sparse)
    lengths = {name: {len(row) for row in rows[::3]} for name, rows in lists.items()}
    assert lengths["recent"] == {0, 1, 2, 3}
    assert {0, 1, 2, 3} <= lengths["tags"]
    missing = batch.vectors[::3].isnan().any(dim=1).float().mean()
    assert 0 < missing < 1
    assert batch.numbers[::3].isnan().any()


def test_fields_are_named_with_their_widths(schema, batch):
    _, encoder = build(schema, EVERY, batch, config=CODES, unpooled=("item",))
    assert dict(zip(encoder.names, encoder.dims, strict=True)) == {
        "user_id": 16, "tags": 16, "hour": 16, "recent": 16, "item_id": 16,
        "age": 4, "price": 4, "taste": 6, "picture": 6, "taste_code": 6, "picture_code": 6,
    }  # fmt: skip
    assert list(encoder.names)[:5] == ["user_id", "tags", "hour", "recent", "item_id"]


@pytest.mark.parametrize("unpooled", [(), ("item",)], ids=len)
def test_empty_bags_are_zero(schema, batch, unpooled):
    tables, encoder = build(schema, ("recent", "tags"), batch, unpooled=unpooled)
    padded = pad(take(batch, [0]), 2)
    found = encoder(tables(padded.sparse), padded)
    assert torch.equal(found[1:], torch.zeros(2, encoder.width))


@pytest.mark.parametrize("config", [LINEAR, RAW, CODES], ids=["linear", "raw", "codes"])
def test_padding_and_other_rows_leave_a_row_as_it_is(schema, batch, config):
    tables, encoder = build(schema, EVERY, batch, config=config, unpooled=("item",))
    whole = encoder(tables(batch.sparse), batch)
    few = pad(take(batch, [5, 2]), 3)
    torch.testing.assert_close(encoder(tables(few.sparse), few)[:2], whole[[5, 2]])


def test_vectors_get_no_gradient_through_their_code(schema, batch):
    tables, encoder = build(schema, ("picture",), batch, config=CODES)
    batch.vectors = batch.vectors.clone().requires_grad_()
    encoder(tables(batch.sparse), batch)[:, 6:].sum().backward()
    assert batch.vectors.grad is None or not batch.vectors.grad.any()
    encoder(tables(batch.sparse), batch)[:, :6].sum().backward()
    assert batch.vectors.grad.any()


def test_look_alikes_share_most_of_their_code(schema, batch):
    tables, encoder = build(schema, ("picture",), batch, config=CODES)
    first = encoder(tables(batch.sparse), batch)
    batch.vectors = 2 * batch.vectors
    second = encoder(tables(batch.sparse), batch)
    assert torch.equal(first[:, 6:], second[:, 6:])
    assert not torch.equal(first[:, :6], second[:, :6])


@pytest.mark.parametrize("bits", [0, 25])
def test_codes_of_too_many_bits_are_refused(bits):
    with pytest.raises(
        ValueError, match=rf"vector\.codes\.picture must be 1 to 24 bits, got {bits}"
    ):
        VectorConfig(codes={"picture": bits})


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            FieldConfig(vector=VectorConfig(codes={"colour": 4})),
            r"fields\.vector\.codes names colour, which is no vector feature; those are taste, pic",
        ),
        (
            FieldConfig(number=NumberConfig(kind="equal_frequency", kinds={"item_id": "integer"})),
            r"fields\.number\.kinds names item_id, which is no number feature; those are age, p",
        ),
    ],
)
def test_codes_and_quantisers_of_other_features_are_refused(schema, config, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        check_codes(schema, config)
    assert caught.value.everywhere
    check_codes(schema, CODES)
