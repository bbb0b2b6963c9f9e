"""Tables with memory, and their weights by feature."""

import torch


def random_tables(tables):
    """Give tables memory and large weights, so that no mistake is small."""
    tables.to_empty(device=torch.device("cpu"))
    for weight in tables.parameters():
        torch.nn.init.normal_(weight)
    return tables


def weight_of(tables, feature, table_set, schema):
    """Return the weight (rows, dim) that a feature reads in a set."""
    table = schema.features[feature].table
    name = f"{table_set}/{table}" if table_set else table
    weights = {name.split(".")[-2]: weight for name, weight in tables.named_parameters()}
    return weights[name]
