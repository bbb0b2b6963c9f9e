"""One folder a dataset; each makes Parquet that lfm4ads.data reads."""
