"""Maps of ids attached to the tables of a sharded model, and read from checkpoints."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from lfm4ads.core.checkpoint import load_checkpoint
from lfm4ads.core.ranks import Ranks
from lfm4ads.nn.tables import ManagedTable, Tables
from lfm4ads.shard.ids import IdMaps, IdPiece
from lfm4ads.shard.idspace import IdsConfig, Int64s
from lfm4ads.shard.whole import row_parts


def attach_maps(
    model: nn.Module,
    *,
    config: IdsConfig,
    ranks: Ranks,
    reset: Callable[[str, Int64s], None],
) -> dict[str, IdMaps]:
    """Give every ``Tables`` with managed tables its maps; return them by its path in the model.

    ``reset`` begins rows of a table anew, by the table's name in its set.
    """
    maps: dict[str, IdMaps] = {}
    for path, tables in model.named_modules():
        if isinstance(tables, Tables) and tables.managed:
            evict = _evict(tables.managed, reset=reset)
            maps[path] = IdMaps(tables.managed, config=config, ranks=ranks, evict=evict)
            tables.remap = maps[path]
    return maps


def _evict(
    managed: Mapping[str, ManagedTable], *, reset: Callable[[str, Int64s], None]
) -> Callable[[str, Int64s], None]:
    def evict(table: str, rows: Int64s) -> None:
        for name in managed[table].names:
            reset(name, rows)

    return evict


def id_state(maps: Mapping[str, IdMaps]) -> dict[str, IdPiece]:
    """Return the arrays of all maps by ``<path>.<table>.<array>``, to be saved or written to.

    Collective: what ranks have counted since is added up, or forgotten when it is written over.
    """
    state: dict[str, IdPiece] = {}
    for path, one in maps.items():
        one.settle()
        state |= {f"{path}.{name}": piece for name, piece in one.state().items()}
    return state


def load_maps(
    folder: Path, maps: Mapping[str, IdMaps], *, sources: Mapping[str, str], ranks: Ranks
) -> None:
    """Read maps of a checkpoint; ``sources``: own path -> the path there. Collective.

    Raises:
        UserError: the checkpoint has none, or of another shape.
    """
    state: dict[str, IdPiece] = {}
    for path, source in sources.items():
        maps[path].settle()
        state |= {f"{source}.{name}": piece for name, piece in maps[path].state().items()}
    parts = {
        name: row_parts(piece.values, first_row=piece.first, num_rows=piece.total)
        for name, piece in state.items()
    }
    if parts:
        load_checkpoint(folder, {"ids": parts}, ranks=ranks)
