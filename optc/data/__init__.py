"""The user's data: read in slices, split into parts that never mix, in batches of the model's."""
