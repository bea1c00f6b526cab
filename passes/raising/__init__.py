"""Passes that find again the large ops that export decomposed: norms, softmax, attention."""
