"""KuaiRand to the dataset contract; see README.md for source, licence and columns."""
