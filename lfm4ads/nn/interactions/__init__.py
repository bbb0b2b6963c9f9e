"""Explicit feature interactions behind one signature: fields side by side in, all layers out."""
