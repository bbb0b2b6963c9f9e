"""A merge of experts with its gates run alone."""


def merged(merge, h, fields):
    """Return what a merge gives for experts' outputs (B, M, H) and each expert's input (B, .)."""
    return merge(h, [gate(x)[-1] for gate, x in merge.gates_of(fields)])
