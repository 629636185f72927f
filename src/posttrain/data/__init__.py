"""Data: records, data sets, chat templates, and batches of packed tokens."""
