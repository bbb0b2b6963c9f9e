"""From schema.yaml and Parquet to Batch, and the representations kept on disk."""
