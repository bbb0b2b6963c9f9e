"""The only package that places tables on ranks and attaches sparse optimisers."""
