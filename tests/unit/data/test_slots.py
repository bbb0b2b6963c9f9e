"""Which rows of a batch are folded, and where they go."""

from lfm4ads.data.schema import load_schema
from lfm4ads.data.slots import Slots, groups_of, horizons_of
from tests.batches import one_rank, pad, read_batches
from tests.worlds import write_tiny


def test_padding_goes_nowhere(tmp_path):
    folder = write_tiny(tmp_path, days=1, rows=40)
    schema, batch = load_schema(folder), read_batches(folder, ranks=one_rank())[0]
    slots = Slots(
        by="domain",
        groups=groups_of(schema, by="domain", domains=(), scenarios=()),
        events=("", "click"),
        horizons=horizons_of(days=(7.0,), events=()),
        layers={"top_1": 4},
        reads="layernorm",
        towers=(4, 4),
    )
    valid = batch.valid.numpy()
    for shown in (batch, pad(batch, 5)):
        rows = slots.rows(shown, list(schema.tasks))
        assert len(rows) == valid.sum() == shown.num_valid
        assert rows.row_id.tolist() == batch.row_id.numpy()[valid].tolist()
        assert rows.keys["user"].tolist() == batch.user.numpy()[valid].tolist()
        assert (rows.group >= 0).all()
        assert rows.marks[:, 0].all()
